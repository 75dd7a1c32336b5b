"""The drift tick on a real database: what it notices, when it begins anew, and that it can be derived again."""

from typing import Any, get_args

import msgspec
import pytest

from experiments.errors import Stale
from experiments.experiment import Experiment
from experiments.facts import shadow_id
from experiments.metrics import Metric
from experiments.quantities import SECOND
from learning.compiling import Budget, CompileRun, RunState
from learning.definitions import DriftOptions, ProgramDefinition
from monitoring.signals import Signal
from server.clock import new_id
from server.loop import drifting
from server.loop.drifting import Seen, keep, look, rederived
from server.store import Connection
from server.store.compiles import insert_run
from server.store.drifts import AlarmRaised, Watched, alarms_of, close_alarm, kept_watch, open_alarms
from server.store.rows import decode
from server.store.tables import compiles
from server.trials import acts
from tests.server.world import METRICS, World, on
from tests.store.made import append, prediction

GOOD = {"base": 0.9}
OPTIONS = DriftOptions(min_outcomes=50)


def definition(drift: DriftOptions = OPTIONS, **metrics: Metric) -> ProgramDefinition:
    return ProgramDefinition(
        signature="a -> b",
        lm="sim/triage",
        metrics={**METRICS, **metrics},
        experiments={"outcome_window": 10},
        drift=drift,
    )


DEFINITION = msgspec.convert(
    {
        "signature": "a -> b",
        "lm": "sim/triage",
        "metrics": msgspec.to_builtins(METRICS),
        "experiments": {"outcome_window": "10s"},
        "drift": {"min_outcomes": 50},
    },
    ProgramDefinition,
)


def defined(**changes: Any) -> ProgramDefinition:
    """The definition, watched otherwise."""
    return msgspec.structs.replace(DEFINITION, drift=msgspec.structs.replace(DEFINITION.drift, **changes))
