"""What the demo plays: a program, its cases with their true labels, and the challenger that is put on trial.

Both scenes are the projects in `examples/`, read as they are.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from experiments.errors import Invalid

EXAMPLES = Path(__file__).parents[2] / "examples"

_BRIEF = {
    "randomize": "request",
    "block": "1s",
    "outcome_window": "15s",
    "min_units": 50,
    "min_duration": "15s",
    "max_duration": "30m",
}

Case = tuple[dict[str, Any], dict[str, Any]]
"""The input of a prediction and the label that is reported for it later."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to watch. `clients` applications call at once, at most `per_second` calls in all."""

    title: str
    lm: str
    program: str
    folder: Path
    challenger: str
    instructions: str
    trial: dict[str, Any]
    """What the experiment is created with, over the example's own defaults: a show is shorter than a day's traffic."""
    cases: Callable[[int], Case]
    clients: int
    per_second: float
    least: int
    """Predictions before the experiment, and again after it, from which accuracy is told."""

    @property
    def definitions(self) -> Path:
        """The definitions file that the server is started with."""
        return self.folder / "ratchet.yaml"


def _triage() -> Scene:
    folder = EXAMPLES / "triage"
    return Scene(
        title="Support tickets, sorted by a program whose instruction can be better",
        lm="sim/triage, a SIMULATED language model (everything else is real)",
        program="triage",
        folder=folder,
        challenger="careful",
        instructions=_text(folder / "challenger.txt"),
        trial={**_BRIEF, "ramp": [0.2, 0.5], "ramp_units": 40, "max_units": 6000},
        cases=_module(folder / "cases.py").case,
        clients=24,
        per_second=60.0,
        least=150,
    )


def _reviews() -> Scene:
    folder = EXAMPLES / "reviews"
    return Scene(
        title="Real reviews, judged by a small real language model under two wordings of its instruction",
        lm="local/smollm2 (SmolLM2-135M-Instruct), a REAL language model in the server's process",
        program="reviews",
        folder=folder,
        challenger="reworded",
        instructions=_text(folder / "challenger.txt"),
        trial={**_BRIEF, "split": {"base": 0.5, "reworded": 0.5}, "max_units": 3000},
        cases=_module(folder / "cases.py").case,
        clients=2,
        per_second=30.0,
        least=60,
    )


SCENES: dict[str, Callable[[], Scene]] = {"sim": _triage, "local": _reviews}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise Invalid(
            f"the demo plays what is in {EXAMPLES}; {path.name} is not there, run it from a checkout"
        ) from None


def _module(path: Path) -> ModuleType:
    """The example's own code: it is not part of any package, so that it can be copied as it is."""
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise Invalid(f"{path} cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
