"""What one process tells Prometheus: counters and histograms set where things happen, and how the process itself is.

One `Metrics` per process. What is read from the database and true of the whole installation is in `monitoring.domain`,
and shown by the leader alone.
"""

from collections.abc import Mapping
from typing import get_args

from experiments.experiment import By, Verdict
from experiments.facts import Prediction, Status, shadowed_id
from experiments.quantities import DOLLAR, SECOND
from monitoring.domain import Domain
from monitoring.exposition import Exposition, Writer
from monitoring.families import Families, Family

_DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OVERHEADS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_COMMITS = (0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0)
_DELAYS = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0, 3 * 86_400.0, 7 * 86_400.0, 30 * 86_400.0)


class Metrics:
    """Every family of one process; `domain` holds what is shown while it leads."""

    def __init__(self, *, version: str = "") -> None:
        self._families = families = Families()
        self._writer = Writer(families.made)
        self.domain = Domain(families)
        self.predictions = families.counter("predictions", "Predictions answered or failed.", "program variant status")
        self.prediction_duration = families.histogram(
            "prediction_duration_seconds", "Time to answer, the language model included.", "program variant", _DURATIONS
        )
        self.overhead = families.histogram(
            "overhead_seconds", "Time to answer, the language model left out.", "program", _OVERHEADS
        )
        self.llm_tokens = families.counter("llm_tokens", "Tokens of language model calls.", "program variant type")
        self.llm_cost = families.counter("llm_cost_dollars", "Cost of language model calls.", "program variant")
        self.outcomes = families.counter("outcomes", "Outcomes reported.", "program variant metric status")
        self.outcome_delay = families.histogram(
            "outcome_delay_seconds", "From a prediction to its accepted outcome.", "program", _DELAYS
        )
        self.split = families.gauge("split_ratio", "Share of traffic by the routing in force.", "program variant")
        self.decisions = families.counter("decisions", "Decisions made.", "program verdict")
        self.promotions = families.counter("promotions", "Promotions carried out.", "program by")
        self.log_queue = families.gauge("log_queue_rows", "Rows waiting for their group's commit.")
        self.log_commit = families.histogram("log_commit_seconds", "Time of one group commit.", "", _COMMITS)
        self.scheduler_success = families.gauge(
            "scheduler_last_success_timestamp_seconds", "When the job last finished.", "job", led=True
        )
        self.leader = families.gauge("leader", "1 where this process decides.")
        self.config_epoch = families.gauge(
            "config_epoch", "Number of the configuration in force; equal on all replicas."
        )
        self.config_good = families.gauge(
            "config_last_reload_successful", "0 after a definitions file was refused, else 1."
        )
        self.config_good.set(1)
        families.gauge("build_info", "1; the version is the label.", "version").labels(version).set(1)

    @property
    def families(self) -> list[Family]:
        """Every family, by name."""
        return sorted(self._families.made.values(), key=lambda family: family.name)

    def predicted(self, prediction: Prediction, trace_id: str | None = None) -> None:
        """Count one prediction that was recorded; `variant` is the assigned one, tokens and cost go to the caller's.

        A shadow was served to nobody: only what its calls cost counts. `trace_id` becomes the duration's exemplar.
        """
        program = prediction.program
        if shadowed_id(prediction.prediction_id) is None:
            variant = self.slot(program, prediction.assigned_variant)
            self.predictions.labels(program, variant, prediction.status).inc()
            exemplar = {"trace_id": trace_id} if trace_id else None
            self.prediction_duration.labels(program, variant).observe(prediction.latency / SECOND, exemplar)
        for call in prediction.calls:
            caller = self.slot(program, call.variant)
            self.llm_tokens.labels(program, caller, "input").inc(call.input_tokens)
            self.llm_tokens.labels(program, caller, "output").inc(call.output_tokens)
            if call.cost is not None:
                self.llm_cost.labels(program, caller).inc(call.cost / DOLLAR)

    def committed(self, _rows: int, seconds: float) -> None:
        """Note one group commit of the journal."""
        self.log_commit.observe(seconds)

    def decided(self, program: str, verdict: Verdict, by: By) -> None:
        """Count a decision, and a promotion if it is one."""
        self.decisions.labels(program, verdict).inc()
        if verdict == "promote":
            self.promotions.labels(program, by).inc()

    def slot(self, program: str, variant: str) -> str:
        """The label of a variant: its name while it is on traffic."""
        return self._families.slot(program, variant)

    def routed(self, program: str, shares: Mapping[str, float]) -> None:
        """Show the shares in force, 0 for an arm whose experiment is paused, and drop the series of other variants.

        No shares: the program is no more. What can be counted begins at 0, so that the first of anything is seen to
        happen.
        """
        if not shares:
            self._families.forget(program)
            return
        self._families.route(program, shares)
        for variant, share in shares.items():
            self.split.labels(program, variant).set(share)
            for status in get_args(Status):
                self.predictions.labels(program, variant, status)
        for verdict in get_args(Verdict):
            self.decisions.labels(program, verdict)
        for by in get_args(By):
            self.promotions.labels(program, by)

    def led(self, mine: bool) -> None:
        """Note whether this process leads. What a leader shows goes when it no longer does: another one shows it."""
        self.leader.set(mine)
        if not mine:
            self._families.clear_led()

    def exposition(self, accept: str | None) -> Exposition:
        """All series in the format that an Accept header asks for; exemplars are in OpenMetrics alone."""
        return self._writer.exposition(accept)

    def render(self) -> bytes:
        """All series in Prometheus's plain text format."""
        return self.exposition(None).body
