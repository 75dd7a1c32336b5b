"""What a compile run will take, which optimizer suits, and what budget is too small to begin with: before it is paid.

`optimizer: auto` chooses by this table, from top to bottom:

| examples to learn from | steps | remarks in words                    | optimizer             |
|------------------------|-------|-------------------------------------|-----------------------|
| fewer than 30          | any   | any                                 | `bootstrap_few_shot`  |
| 30 or more             | >= 2  | any                                 | `gepa`                |
| 30 or more             | 1     | with at least a tenth of examples   | `gepa`                |
| 30 to 199              | 1     | with fewer                          | `mipro`, else `gepa`  |
| 200 or more            | 1     | with fewer                          | `gepa`                |

Few examples show more than they teach: `bootstrap_few_shot` puts some into the prompt. `gepa` reads mistakes and what
was said of them, and writes instructions; it tells the steps of a program apart. `mipro` searches for instructions and
examples by score alone; where optuna, which it needs, is not installed, `gepa` stands in and learns from the labels.
"""

import importlib.util
import math

import msgspec

from experiments.errors import Invalid
from learning.compile_runs import Budget, Job, Optimizer
from learning.definitions import LmSettings, ProgramDefinition
from learning.variants import Variant, lm_in_force

MINIBATCH = 5
"""Examples on which GEPA compares a proposal with its parent before it pays for the valset."""
LEAST_PROPOSALS = 3
"""Proposals that a budget must have room for, each of them accepted."""
TRIALS = 12
"""Combinations of instructions and demos that MIPRO looks at, if the budget allows."""
CANDIDATES = 6
"""Instructions, and sets of demos, that MIPRO combines per predictor."""
DEMOS = 4
"""Demos that an optimizer puts into a prompt, at most."""
_FEW, _MANY = 30, 200
_ENOUGH_REMARKS = 0.1
_BOOTSTRAPS = (CANDIDATES - 2) * DEMOS * 2
"""Runs of the program with which MIPRO finds its demos, where every second one succeeds."""
_ACCEPTED = 0.25
"""Share of GEPA's proposals that pass their minibatch and go on to the valset, about."""
_INSTRUCTION = 600
"""Tokens of an instruction that was written by reflection, about."""
_SUMMARIES = 12
"""Calls in which MIPRO looks at the data before it writes instructions."""

NEEDS_OPTUNA = "mipro needs optuna, which is not installed here: `make setup`, or choose another optimizer"
_OPTIMIZERS: tuple[Optimizer, ...] = ("gepa", "mipro", "bootstrap_few_shot")


def installed() -> frozenset[Optimizer]:
    """The optimizers that can run here."""
    every = frozenset(_OPTIMIZERS)
    return every if importlib.util.find_spec("optuna") else every - {"mipro"}


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is expected to take if its money suffices; `cost` in picodollars, None without a price.

    `min_metric_calls` is the least metric-call budget with which it may begin.
    """

    student_calls: int
    reflection_calls: int
    cost: int | None
    min_metric_calls: int


def choose(
    wanted: str, *, examples: int, share_with_feedback: float, predictors: int, installed: frozenset[Optimizer]
) -> tuple[Optimizer, str]:
    """The optimizer for a run and why; see the table above. `examples` counts trainset and valset.

    Raises: Invalid at /learning/optimizer when the one that is wanted is not installed.
    """
    if wanted == "mipro" and "mipro" not in installed:
        raise Invalid.at("/learning/optimizer", NEEDS_OPTUNA)
    for named in _OPTIMIZERS:
        if wanted == named:
            return named, "as the definition says"
    if examples < _FEW:
        return "bootstrap_few_shot", f"{examples} examples are few: they serve best as demonstrations"
    if predictors == 1 and share_with_feedback < _ENOUGH_REMARKS and examples < _MANY and "mipro" in installed:
        return "mipro", f"{examples} examples without remarks are searched by score"
    if predictors > 1:
        return "gepa", f"the program has {predictors} steps, and gepa tells them apart"
    if share_with_feedback >= _ENOUGH_REMARKS:
        why = f"{share_with_feedback:.0%} of the examples carry remarks to learn from"
    elif examples >= _MANY:
        why = f"{examples} labelled examples are enough to reflect on"
    else:
        why = f"{examples} examples without remarks would be for mipro, which needs optuna"
    return "gepa", why


def min_metric_calls(optimizer: Optimizer, val: int) -> int:
    """The least metric-call budget that lets an optimizer find anything, for a valset of `val` examples.

    With less GEPA returns what it was given and looks as if it had searched.
    """
    if optimizer == "gepa":
        return val + LEAST_PROPOSALS * (2 * MINIBATCH + val)
    if optimizer == "mipro":
        return _BOOTSTRAPS + (1 + LEAST_PROPOSALS) * val
    return 2 * (DEMOS + val)


def default_metric_calls(optimizer: Optimizer, val: int, predictors: int) -> int:
    """A metric-call budget for whoever names none: GEPA may then make some thirty proposals per predictor."""
    if optimizer == "gepa":
        proposals = 20 + 10 * predictors
        return val + math.ceil(proposals * (2 * MINIBATCH + _ACCEPTED * val))
    if optimizer == "mipro":
        return _BOOTSTRAPS + (1 + TRIALS) * val
    return 2 * val + 10 * DEMOS


def mipro_trials(metric_calls: int, val: int) -> int:
    """How many combinations MIPRO can look at within a budget that is not too small."""
    return min(TRIALS, (metric_calls - _BOOTSTRAPS) // val - 1)


def expected(
    *,
    definition: ProgramDefinition,
    champion: Variant,
    val: int,
    holdout: int,
    optimizer: Optimizer,
    budget: Budget,
    tokens: tuple[float, float],
) -> Estimate:
    """What a run will take. `tokens` are the mean input and output tokens of the champion's calls in production."""
    predictors = len(champion.state)
    least = min_metric_calls(optimizer, val)
    runs = max(budget.metric_calls, least) if optimizer != "bootstrap_few_shot" else 2 * (DEMOS + val)
    student_calls = (1 + runs + 2 * holdout) * predictors
    reflection_calls = _reflection_calls(optimizer, runs, val, predictors)
    given, made = tokens
    student = lm_in_force(champion, definition)
    reflection = definition.learning.reflection_settings or student
    shown = MINIBATCH * (given + made) + _INSTRUCTION
    costs = [_cost(student, student_calls, given, made)]
    if reflection_calls:
        costs.append(_cost(reflection, reflection_calls, shown, _INSTRUCTION))
    known = [cost for cost in costs if cost is not None]
    return Estimate(
        student_calls=student_calls,
        reflection_calls=reflection_calls,
        cost=sum(known) if len(known) == len(costs) else None,
        min_metric_calls=least,
    )


def refusal(job: Job, student: LmSettings, reflection: LmSettings) -> str | None:
    """Why a run must not begin with this budget, naming what to change; None when it may."""
    needed = min_metric_calls(job.optimizer, len(job.dataset.val))
    if job.budget.metric_calls < needed:
        return (
            f"{job.optimizer} needs at least {needed} metric calls with a valset of {len(job.dataset.val)} examples, "
            f"and max_metric_calls is {job.budget.metric_calls}"
        )
    if job.budget.cost is None:
        return None
    lms = {"lm.price": student}
    if job.optimizer != "bootstrap_few_shot":
        lms["learning.reflection_lm.price"] = reflection
    unpriced = [field for field, lm in lms.items() if lm.price is None]
    if unpriced:
        return f"a budget in dollars cannot be kept without a price: write {' and '.join(unpriced)}"
    return None


def _reflection_calls(optimizer: Optimizer, runs: int, val: int, predictors: int) -> int:
    if optimizer == "gepa":
        return 1 + math.ceil((runs - val) / (2 * MINIBATCH + _ACCEPTED * val))
    if optimizer == "mipro":
        return 1 + _SUMMARIES + CANDIDATES * predictors
    return 0


def _cost(lm: LmSettings, calls: int, given: float, made: float) -> int | None:
    return None if lm.price is None else lm.price.of(math.ceil(calls * given), math.ceil(calls * made))
