"""What a process shows: few series, of what is on traffic, and of the whole installation only while it leads."""

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client import exposition as text
from prometheus_client.openmetrics import exposition as openmetrics

from experiments.facts import Call, shadow_id
from experiments.quantities import DOLLAR
from monitoring.domain import Learning, Survey
from monitoring.families import OFF_TRAFFIC, most_series
from monitoring.metrics import Metrics
from tests.monitoring.world import PROGRAM, TRACE, everything, readings
from tests.prometheus import promtool
from tests.store.made import prediction

OPENMETRICS = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
"""What Prometheus sends."""


def test_series_of_variants_off_traffic_are_removed() -> None:
    metrics = Metrics(version="1")
    metrics.routed("triage", {"base": 0.5, "terse": 0.5})
    metrics.routed("other", {"terse": 1.0})
    for variant in ("base", "terse"):
        metrics.predictions.labels("triage", variant, "ok").inc()
        metrics.prediction_duration.labels("triage", variant).observe(0.1)
    metrics.routed("triage", {"base": 1.0})
    shown = metrics.render().decode()
    assert 'program="triage",variant="terse"' not in shown
    assert 'ratchet_predictions_total{program="triage",status="ok",variant="base"} 1.0' in shown
    assert 'ratchet_split_ratio{program="other",variant="terse"} 1.0' in shown


def test_what_comes_in_for_variants_off_traffic_is_counted_together() -> None:
    metrics = Metrics(version="1")
    metrics.routed("triage", {"base": 1.0, "paused": 0.0})
    for variant in ("base", "paused", "gone", "pinned"):
        call = Call(variant, "m", 10, 1, cost=DOLLAR, latency=5)
        metrics.predicted(prediction(program="triage", assigned_variant=variant, calls=(call,)))
    shown = metrics.render().decode()
    for variant, dollars in (("base", 1.0), ("paused", 1.0), (OFF_TRAFFIC, 2.0)):
        assert f'ratchet_llm_cost_dollars_total{{program="triage",variant="{variant}"}} {dollars}' in shown
        assert f'ratchet_predictions_total{{program="triage",status="ok",variant="{variant}"}} {dollars}' in shown
    assert "gone" not in shown
    metrics.routed("triage", {})
    assert 'program="triage"' not in metrics.render().decode()


def test_a_shadow_is_paid_for_and_was_served_to_nobody() -> None:
    metrics = Metrics(version="1")
    metrics.routed("triage", {"base": 0.5, "terse": 0.5})
    call = Call("terse", "m", 10, 1, cost=DOLLAR, latency=5)
    metrics.predicted(prediction(prediction_id=shadow_id("p"), assigned_variant="terse", calls=(call,)))
    shown = metrics.render().decode()
    assert 'ratchet_predictions_total{program="triage",status="ok",variant="terse"} 0.0' in shown
    assert "ratchet_prediction_duration_seconds_count{" not in shown
    assert 'ratchet_llm_cost_dollars_total{program="triage",variant="terse"} 1.0' in shown
    assert 'ratchet_llm_tokens_total{program="triage",type="input",variant="terse"} 10.0' in shown


def test_two_hundred_retired_variants_leave_no_series_and_the_budget_is_kept() -> None:
    """A leader that shows everything about each variant while it is on trial."""
    metrics = everything()
    signals = [reading.signal for reading in readings("base")]
    budget = most_series(
        metrics.families,
        {"program": 1, "variant": 2, "metric": 1, "signal": len(signals), "job": 3, "version": 1},
    )
    sizes = []
    for number in range(200):
        new = f"v{number}"
        metrics.routed(PROGRAM, {"base": 0.9, new: 0.1})
        for status in ("ok", "fallback", "error"):
            metrics.predicted(prediction(program=PROGRAM, assigned_variant=new, status=status))
        metrics.outcomes.labels(PROGRAM, metrics.slot(PROGRAM, new), "correct", "accepted").inc()
        metrics.domain.drifted(PROGRAM, readings("base", new), {(new, "score"): 1}, 1)
        metrics.domain.surveyed(
            PROGRAM,
            Survey(
                scores={(new, "correct"): 0.5}, cost_per_correct={new: 0.1}, coverage={new: 0.5, f"v{number - 1}": 1}
            ),
        )
        sizes.append(len(series(metrics)))
    assert max(sizes) <= budget
    assert max(sizes) == sizes[1], "the number of series does not grow"
    assert not [line for line in series(metrics) if re.search(r'"v(1?\d?\d)"', line) and '"v199"' not in line]


def test_the_families_of_the_domain_go_with_the_leadership_and_come_back_with_the_next_reading() -> None:
    metrics = everything()
    led = {family.name for family in metrics.families if family.led}
    assert led <= shown_families(metrics)
    metrics.led(mine=False)
    assert not led & shown_families(metrics)
    assert "ratchet_leader 0.0" in metrics.render().decode()

    metrics.led(mine=True)
    metrics.domain.compiled(PROGRAM, Learning(runs={("drift", "succeeded"): 2}, spent=7 * DOLLAR))
    shown = metrics.render().decode()
    assert f'ratchet_compile_cost_dollars_total{{program="{PROGRAM}"}} 7.0' in shown
    assert f'ratchet_recompiles_total{{program="{PROGRAM}",reason="drift",result="admitted"}} 2.0' in shown


def test_with_several_processes_the_sum_and_the_greatest_of_the_domain_are_the_leaders() -> None:
    leader, other = everything(), Metrics(version="1")
    other.routed(PROGRAM, {"base": 1.0})
    other.led(mine=False)
    assert not {family.name for family in leader.families if family.led} & shown_families(other)


def test_what_is_read_again_is_not_counted_again() -> None:
    metrics = everything()
    before = metrics.render()
    spent = Learning(runs={("drift", "succeeded"): 1, ("drift", "failed"): 1}, spent=6 * DOLLAR)
    for _ in range(3):
        metrics.domain.compiled(PROGRAM, spent)
    shown = metrics.render().decode()
    assert f'ratchet_compile_cost_dollars_total{{program="{PROGRAM}"}} 5.0' in before.decode()
    assert f'ratchet_compile_cost_dollars_total{{program="{PROGRAM}"}} 6.0' in shown
    assert f'ratchet_recompiles_total{{program="{PROGRAM}",reason="drift",result="failed"}} 1.0' in shown
    assert "ratchet_compile_month_budget_dollars{" not in shown, "no budget is not a budget of 0"
    assert "ratchet_compile_progress_ratio{" not in shown


def test_what_can_be_counted_begins_at_zero_so_that_the_first_is_seen_to_happen() -> None:
    metrics = Metrics(version="1")
    metrics.routed("triage", {"base": 1.0})
    shown = metrics.render().decode()
    assert 'ratchet_predictions_total{program="triage",status="error",variant="base"} 0.0' in shown
    assert 'ratchet_promotions_total{by="holdback",program="triage"} 0.0' in shown
    assert 'ratchet_decisions_total{program="triage",verdict="rollback"} 0.0' in shown


def test_a_number_that_is_none_is_not_shown() -> None:
    metrics = everything()
    (score, share) = readings("base")
    unknown = msgspec.structs.replace(score, score=None, null_score=float("nan"), change_point=None, alarm_at=None)
    metrics.domain.drifted(PROGRAM, [unknown, share], {}, None)
    shown = metrics.render().decode()
    assert 'ratchet_drift_score_ratio{program="p",signal="score"' not in shown
    assert 'ratchet_drift_null_score_ratio{program="p",signal="score"' not in shown
    assert 'ratchet_drift_alarm{program="p",signal="score",variant="base"} 0.0' in shown
    assert 'ratchet_drift_score_ratio{program="p",signal="label_share",variant="base"} 0.6' in shown
    assert "ratchet_drift_last_update_timestamp_seconds{" not in shown


def test_exemplars_are_there_where_the_format_has_them_and_nowhere_else() -> None:
    metrics = everything()
    plain, open_ = metrics.exposition(None), metrics.exposition(OPENMETRICS)
    assert plain.media_type.startswith("text/plain; version=0.0.4")
    assert open_.media_type.startswith("application/openmetrics-text; version=1.0.0")
    assert open_.body.endswith(b"# EOF\n")
    assert f'# {{trace_id="{TRACE}"}}'.encode() in open_.body
    assert TRACE.encode() not in plain.body


def test_what_is_written_is_what_prometheus_client_would_write() -> None:
    """Byte for byte, also at the second time, after series have come and gone, and with odd labels and values."""
    metrics = everything()
    registry = metrics._families.registry
    for _ in range(2):
        assert metrics.exposition(None).body == text.generate_latest(registry)
        assert metrics.exposition(OPENMETRICS).body == openmetrics.generate_latest(registry)
        metrics.routed(PROGRAM, {"new": 1.0})
        metrics.outcomes.labels('a "quoted" \\ name\n', "b", "c", "late").inc(1e7)
        metrics.log_queue.set(float("inf"))
        metrics.config_epoch.set(float("nan"))


def test_promtool_finds_nothing_wrong_with_what_is_shown() -> None:
    promtool("check", "metrics", given=everything().render())


def test_every_family_of_the_contract_is_there_under_its_labels() -> None:
    """The names that dashboards of others rely on."""
    known = {family.name: set(family.labels) for family in Metrics().families}
    for written in (Path(__file__).parent / "contract.txt").read_text().split():
        name, _, labels = written.partition("{")
        assert known[name] == set(filter(None, labels.rstrip("}").split(","))), name


@pytest.mark.parametrize("family", Metrics().families, ids=lambda family: family.name)
def test_a_family_says_what_it_is_in_a_sentence_and_has_the_prefix(family) -> None:
    assert family.name.startswith("ratchet_")
    assert re.fullmatch(r".+[^.]\.", family.meaning)
    assert family.kind != "counter" or family.name.endswith("_total")


def series(metrics: Metrics) -> list[str]:
    return [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]


def shown_families(metrics: Metrics) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", re.split(r"[{ ]", line)[0]) for line in series(metrics)}
