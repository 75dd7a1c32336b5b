"""What Prometheus sees: every family, its labels, and which series are alive.

One `Metrics` per process, with a registry of its own. Labels are few and never an id: `variant` is the assigned one, by
name while it is on traffic. The series of others are removed (`routed`), and what is still counted for them, pinned
predictions or late outcomes, goes to `OFF_TRAFFIC`: so sums stay whole, and the number of series follows the number of
live arms and not the number of variants ever made.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample

from experiments.experiment import By, Experiment, Verdict
from experiments.facts import Prediction
from experiments.folding import Evidence
from experiments.quantities import DOLLAR, SECOND
from experiments.report import series_points

# A `_created` series beside every counter would double their number and tell nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client leaves it unannotated

OFF_TRAFFIC = "(off traffic)"
"""The label of all variants that no routing in force leads to; no variant can be called so."""

F = TypeVar("F", bound=MetricWrapperBase)

_DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OVERHEADS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_COMMITS = (0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0)
_DELAYS = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0, 3 * 86_400.0, 7 * 86_400.0, 30 * 86_400.0)


class Metrics:
    """Every family of one process. Gauges about experiments are set by the decision tick, the rest where it happens."""

    def __init__(self, *, version: str = "") -> None:
        self.registry = CollectorRegistry()
        self._by_variant: list[MetricWrapperBase] = []
        self._live: dict[str, frozenset[str]] = {}
        self.predictions = self._counter("predictions", "Predictions answered or failed.", "program variant status")
        self.prediction_duration = self._histogram(
            "prediction_duration_seconds", "Time to answer, the language model included.", "program variant", _DURATIONS
        )
        self.overhead = self._histogram(
            "overhead_seconds", "Time to answer, the language model left out.", "program", _OVERHEADS
        )
        self.llm_tokens = self._counter("llm_tokens", "Tokens of language model calls.", "program variant type")
        self.llm_cost = self._counter("llm_cost_dollars", "Cost of language model calls.", "program variant")
        self.outcomes = self._counter("outcomes", "Outcomes reported.", "program variant metric status")
        self.outcome_delay = self._histogram(
            "outcome_delay_seconds", "From a prediction to its accepted outcome.", "program", _DELAYS
        )
        self.split = self._gauge("split_ratio", "Share of traffic by the routing in force.", "program variant")
        self.score = self._gauge("score_ratio", "Mean score of matured outcomes.", "program variant metric")
        self.effect = self._gauge(
            "experiment_effect_ratio", "Challenger against champion, with bounds.", "program variant metric bound"
        )
        self.evidence = self._gauge(
            "experiment_log_evidence", "Natural log of the e-value on what must improve.", "program variant side"
        )
        self.progress = self._gauge("experiment_progress_ratio", "Units folded, of max_units.", "program")
        self.srm = self._gauge("srm_log_evidence", "Natural log of the e-value against the split.", "program")
        self.decisions = self._counter("decisions", "Decisions made.", "program verdict")
        self.promotions = self._counter("promotions", "Promotions carried out.", "program by")
        self.log_queue = self._gauge("log_queue_rows", "Rows waiting for their group's commit.")
        self.log_commit = self._histogram("log_commit_seconds", "Time of one group commit.", "", _COMMITS)
        self.scheduler_success = self._gauge(
            "scheduler_last_success_timestamp_seconds", "When the job last finished.", "job"
        )
        self.leader = self._gauge("leader", "1 where this process decides.")
        self.config_epoch = self._gauge("config_epoch", "Number of the configuration in force; equal on all replicas.")
        self.config_good = self._gauge("config_last_reload_successful", "0 after a definitions file was refused.")
        self.config_good.set(1)
        self._gauge("build_info", "1; the version is the label.", "version").labels(version).set(1)

    def predicted(self, prediction: Prediction) -> None:
        """Count one prediction that was recorded; `variant` is the assigned one, tokens and cost go to the caller's."""
        program, variant = prediction.program, self.slot(prediction.program, prediction.assigned_variant)
        self.predictions.labels(program, variant, prediction.status).inc()
        self.prediction_duration.labels(program, variant).observe(prediction.latency / SECOND)
        for call in prediction.calls:
            caller = self.slot(program, call.variant)
            self.llm_tokens.labels(program, caller, "input").inc(call.input_tokens)
            self.llm_tokens.labels(program, caller, "output").inc(call.output_tokens)
            if call.cost is not None:
                self.llm_cost.labels(program, caller).inc(call.cost / DOLLAR)

    def committed(self, _rows: int, seconds: float) -> None:
        """Note one group commit of the journal."""
        self.log_commit.observe(seconds)

    def slot(self, program: str, variant: str) -> str:
        """The label of a variant: its name while it is on traffic."""
        return variant if variant in self._live.get(program, ()) else OFF_TRAFFIC

    def routed(self, program: str, shares: Mapping[str, float]) -> None:
        """Show the shares in force, 0 for an arm whose experiment is paused, and drop the series of other variants."""
        self._live[program] = frozenset(shares)
        self._keep(program, {*shares, OFF_TRAFFIC} if shares else set())
        for variant, share in shares.items():
            self.split.labels(program, variant).set(share)

    def _keep(self, program: str, live: set[str]) -> None:
        for family in self._by_variant:
            shown = {(sample.labels["program"], sample.labels["variant"]) for sample in _samples(family)}
            for owner, variant in shown:
                if owner == program and variant not in live:
                    family.remove_by_labels({"program": program, "variant": variant})

    def weighed(self, experiment: Experiment, evidence: Evidence) -> None:
        """Show where a live experiment stands."""
        program = experiment.program
        for point in series_points(experiment, evidence, at=0):
            bounds = {"lower": point.lower, "estimate": point.estimate, "upper": point.upper}
            for bound, effect in bounds.items():
                if effect is not None:
                    self.effect.labels(program, point.challenger, point.metric, bound).set(effect)
            if point.metric == experiment.aim:
                sides = {"better": point.log_e_better, "harm": point.log_e_harm, "futile": point.log_e_futile}
                for side, log_e in sides.items():
                    if log_e is not None:
                        self.evidence.labels(program, point.challenger, side).set(log_e)
        for arm, tally in evidence.tallies.items():
            for metric, (n, total) in tally.sums.items():
                if n and experiment.metrics[metric].bounded:
                    self.score.labels(program, arm, metric).set(total / n)
        self.progress.labels(program).set(evidence.matured(experiment.arms) / experiment.settings.max_units)
        self.srm.labels(program).set(evidence.balance.log_e())

    def decided(self, program: str, verdict: Verdict, by: By) -> None:
        """Count a decision, and a promotion if it is one; what was shown about the experiment goes."""
        self.decisions.labels(program, verdict).inc()
        if verdict == "promote":
            self.promotions.labels(program, by).inc()
        self.clear_experiment(program)

    def clear_experiment(self, program: str) -> None:
        """Drop what is shown about the program's experiment: there is none any more."""
        for family in (self.effect, self.evidence, self.progress, self.srm):
            family.remove_by_labels({"program": program})

    def render(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, labels: str = "") -> Counter:
        return self._listed(Counter(f"ratchet_{name}", meaning, labels.split(), registry=self.registry), labels)

    def _gauge(self, name: str, meaning: str, labels: str = "") -> Gauge:
        return self._listed(Gauge(f"ratchet_{name}", meaning, labels.split(), registry=self.registry), labels)

    def _histogram(self, name: str, meaning: str, labels: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"ratchet_{name}", meaning, labels.split(), registry=self.registry, buckets=buckets)
        return self._listed(family, labels)

    def _listed(self, family: F, labels: str) -> F:
        if "variant" in labels.split():
            self._by_variant.append(family)
        return family


def _samples(family: MetricWrapperBase) -> Iterator[Sample]:
    return (sample for metric in family.collect() for sample in metric.samples)
