from experiments.facts import Call
from experiments.quantities import DOLLAR
from monitoring.families import OFF_TRAFFIC
from monitoring.metrics import Metrics
from tests.store.made import prediction


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
    assert 'program="triage"' not in metrics.render().decode().replace("overhead", "")


def test_two_hundred_variants_leave_no_more_series_than_two() -> None:
    metrics = Metrics(version="1")
    sizes = []
    for number in range(200):
        metrics.routed("triage", {"base": 0.9, f"v{number}": 0.1})
        metrics.predictions.labels("triage", f"v{number}", "ok").inc()
        metrics.prediction_duration.labels("triage", f"v{number}").observe(0.1)
        sizes.append(len(metrics.render().splitlines()))
    assert max(sizes) == sizes[0]


def test_no_family_is_without_help_and_every_name_has_the_prefix() -> None:
    shown = Metrics(version="1").render().decode().splitlines()
    families = [line.split()[2] for line in shown if line.startswith("# TYPE")]
    assert families
    assert all(name.startswith("ratchet_") for name in families)
    assert all(len(line.split()) > 3 for line in shown if line.startswith("# HELP"))
    assert len(families) == len(set(families))
