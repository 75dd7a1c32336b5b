"""What the metrics say about a live experiment, and that they say nothing once it has ended."""

import numpy as np

from monitoring.metrics import Metrics
from tests.experiments.trials import SPLIT, bernoulli_units, experiment, run


def test_a_live_experiment_shows_its_effect_evidence_and_progress_until_it_is_decided() -> None:
    rng = np.random.default_rng(1)
    trial = experiment(min_duration="10d", max_units=1000)
    evidence, _ = run(trial, 6, lambda b: bernoulli_units(rng, 50, b, {"base": 0.6, "new": 0.8}), {1: SPLIT})
    metrics = Metrics(version="1")
    metrics.routed("p", SPLIT)
    metrics.domain.weighed("p", (trial, evidence))
    shown = metrics.render().decode()
    assert 'ratchet_experiment_effect_ratio{bound="lower",metric="correct",program="p",variant="new"}' in shown
    assert 'ratchet_experiment_log_evidence{program="p",side="futile",variant="new"}' in shown
    assert 'ratchet_experiment_progress_ratio{program="p"} 0.3' in shown
    assert 'ratchet_experiment_log_evidence_threshold{program="p",side="better"} 2.99' in shown

    metrics.decided("p", "promote", "engine")
    metrics.domain.weighed("p", None)
    ended = metrics.render().decode()
    assert 'ratchet_promotions_total{by="engine",program="p"} 1.0' in ended
    assert 'ratchet_decisions_total{program="p",verdict="promote"} 1.0' in ended
    assert "ratchet_experiment_effect_ratio{" not in ended
