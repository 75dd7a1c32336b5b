"""The families of series that Prometheus sees: how they are made, labelled, bounded in number, and taken away again.

Labels are few and never an id. `variant` is a name while that variant is on traffic; all others share `OFF_TRAFFIC`, so
that sums stay whole and the number of series follows the live arms, not the variants ever made.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeVar, get_args

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

from experiments.experiment import By, Verdict
from experiments.facts import OutcomeStatus, Status

# A `_created` series beside every counter would double their number and tell nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client leaves it unannotated

OFF_TRAFFIC = "(off traffic)"
"""The label of all variants that no routing in force leads to; no variant can be called so."""

Side = Literal["better", "harm", "futile"]
Bound = Literal["lower", "estimate", "upper"]
Direction = Literal["input", "output"]
Reason = Literal["drift", "schedule", "operator"]
RunState = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]
Result = Literal["admitted", "rejected", "failed", "cancelled"]

F = TypeVar("F", bound=MetricWrapperBase)


class Label(msgspec.Struct, frozen=True):
    """What a label tells. `values` are all that it can have; without any, what it names is in `meaning`."""

    meaning: str
    values: tuple[str, ...] = ()


LABELS = {
    "program": Label("a program's name"),
    "variant": Label(f"the assigned variant's name while it is on traffic, `{OFF_TRAFFIC}` for all others"),
    "metric": Label("a metric of the program's definition"),
    "signal": Label("what is watched for drift, such as `score`"),
    "job": Label("a scheduled job; Prometheus shows it as `exported_job`"),
    "version": Label("the installed version"),
    "status": Label("how a prediction ended, or what became of an outcome", get_args(Status) + get_args(OutcomeStatus)),
    "type": Label("which way the tokens went", get_args(Direction)),
    "bound": Label("the estimate, or an end of its confidence sequence", get_args(Bound)),
    "side": Label("what the evidence is for", get_args(Side)),
    "verdict": Label("the decision", get_args(Verdict)),
    "by": Label("who acted", get_args(By)),
    "state": Label("where a compile run stands", get_args(RunState)),
    "reason": Label("what asked for the recompile", get_args(Reason)),
    "result": Label("how it ended", get_args(Result)),
}


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One family by its name as scraped. `buckets` are a histogram's upper bounds; `led` ones only the leader shows."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    led: bool = False

    def most_series(self, sizes: Mapping[str, int]) -> int:
        """The most series it can have; `sizes` is the number of programs, variants on traffic each, metrics each ...

        A histogram has one more bucket than bounds, a count and a sum.
        """
        each = len(self.buckets) + 3 if self.kind == "histogram" else 1
        return each * math.prod(self._values(label, sizes) for label in self.labels)

    def _values(self, label: str, sizes: Mapping[str, int]) -> int:
        shared = label == "variant" and not self.led  # what the leader shows is about variants on traffic alone
        return len(LABELS[label].values) or sizes[label] + shared


class Families:
    """The families of one process, in a registry of its own, and which variants are on traffic."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.made: dict[MetricWrapperBase, Family] = {}
        self._live: dict[str, frozenset[str]] = {}
        self._told: dict[tuple[str, str], dict[tuple[str, ...], float]] = {}

    def counter(self, name: str, meaning: str, labels: str = "", *, led: bool = False) -> Counter:
        """A number that only grows; `name` without prefix and `_total`."""
        family = Family(name=f"ratchet_{name}_total", kind="counter", meaning=meaning, labels=_split(labels), led=led)
        return self._keep(family, Counter(family.name, meaning, family.labels, registry=self.registry))

    def gauge(self, name: str, meaning: str, labels: str = "", *, led: bool = False) -> Gauge:
        """A number that is what it is now."""
        family = Family(name=f"ratchet_{name}", kind="gauge", meaning=meaning, labels=_split(labels), led=led)
        return self._keep(family, Gauge(family.name, meaning, family.labels, registry=self.registry))

    def histogram(self, name: str, meaning: str, labels: str, buckets: tuple[float, ...]) -> Histogram:
        """How a quantity is distributed over fixed buckets."""
        family = Family(
            name=f"ratchet_{name}", kind="histogram", meaning=meaning, labels=_split(labels), buckets=buckets
        )
        made = Histogram(family.name, meaning, family.labels, registry=self.registry, buckets=buckets)
        return self._keep(family, made)

    def _keep(self, family: Family, made: F) -> F:
        self.made[made] = family
        return made

    def slot(self, program: str, variant: str) -> str:
        """The label of a variant: its name while it is on traffic."""
        return variant if variant in self._live.get(program, ()) else OFF_TRAFFIC

    def route(self, program: str, live: Collection[str]) -> None:
        """Only these variants are on traffic from now on; the series of those that were go.

        What a leader shows about them goes when it tells the next time.
        """
        retired = self._live.get(program, frozenset()) - set(live)
        self._live[program] = frozenset(live)
        for variant in retired:
            for made, family in self.made.items():
                if "variant" in family.labels and not family.led:
                    made.remove_by_labels({"program": program, "variant": variant})

    def forget(self, program: str) -> None:
        """Every series of a program goes: it is no more."""
        self._live.pop(program, None)
        for made, family in self.made.items():
            self._told.pop((family.name, program), None)
            if "program" in family.labels:
                made.remove_by_labels({"program": program})

    def tell(self, made: Gauge | Counter, program: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Make `values`, by the labels that come after `program`, all that a led family says about a program.

        What is said of a variant off traffic, or is no finite number, is left out. A counter grows up to its value.
        """
        family = self.made[made]
        before = self._told.get((family.name, program), {})
        now = {labels: value for labels, value in values.items() if self._sayable(family, program, labels, value)}
        for labels, value in now.items():
            series = made.labels(program, *labels)
            if isinstance(series, Gauge):
                series.set(value)
            else:
                series.inc(max(0.0, value - before.get(labels, 0.0)))
        for labels in before.keys() - now.keys():
            made.remove(program, *labels)
        self._told[family.name, program] = now

    def _sayable(self, family: Family, program: str, labels: tuple[str, ...], value: float) -> bool:
        off_traffic = "variant" in family.labels and self.slot(program, labels[0]) != labels[0]
        return math.isfinite(value) and not off_traffic

    def clear_led(self) -> None:
        """Drop everything that only a leader shows: another process does now."""
        for made, family in self.made.items():
            if family.led:
                made.clear()
        self._told.clear()


def most_series(families: Iterable[Family], sizes: Mapping[str, int]) -> int:
    """The series budget: how many series one process shows at most; see `Family.most_series`."""
    return sum(family.most_series(sizes) for family in families)


def _split(labels: str) -> tuple[str, ...]:
    return tuple(labels.split())
