"""The reviews as the demo asks for them, input and true label by number: first viewers who grumble, then kind critics.

Every review and every label is real. Which of them come is chosen here: at first seven comments in ten are negative,
and after the change of domain seven sentences in ten are positive, so that a wording that suited the first does not
suit the second.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

from learning.engines.triage import Draw

sys.path.insert(0, str(Path(__file__).parent))

from reviews import Review, reviews

SEED = 7
GRUMBLING, KIND = 0.3, 0.7
"""Share of positive reviews among those of the viewers, and of the critics."""


def case(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The input and the true label of viewer's comment number `index`."""
    return _case("imdb", GRUMBLING, index)


def shifted(index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of critic's sentence number `index`."""
    return _case("rotten_tomatoes", KIND, index)


def _case(source: str, positive: float, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Beginning anew when all of a kind have been read."""
    label = "positive" if Draw(SEED, index, source).share() < positive else "negative"
    alike = _labelled(source, label)
    review = alike[index % len(alike)]
    return {"text": review.text}, {"sentiment": review.label}


@cache
def _labelled(source: str, label: str) -> list[Review]:
    return [review for review in reviews(source) if review.label == label]
