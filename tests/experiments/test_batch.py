import numpy as np
import pytest

from experiments import betting, pairs
from experiments.batch import Batch, PairBatch


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.2, 0.4, 1 / 3, 1.0]])
@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_every_run_of_a_batch_is_the_experiment_folded_alone(values, margin):
    rng = np.random.default_rng(7)
    runs, blocks, size = 5, 6, 40
    batch = Batch(runs, margin=margin, min_effect=0.05)
    alone = [betting.begin(margin=margin, min_effect=0.05) for _ in range(runs)]
    for block in range(blocks):
        pi = np.where(np.arange(size) < 20, 0.1 if block < 3 else 0.5, 0.5)
        w = rng.random((runs, size)) < pi
        y = rng.choice(values, (runs, size))
        found = batch.fold(w, y, pi)
        alone = [state.fold(w[run], y[run], pi) for run, state in enumerate(alone)]
        for side in ("better", "harm", "futile"):
            expected = [getattr(state, f"log_e_{side}")() for state in alone]
            np.testing.assert_allclose(found[side][:, -1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("values", [[-1.0, 0.0, 1.0], [-0.7, 0.0, 1 / 3, 1.0]])
@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_every_run_of_a_batch_of_pairs_is_the_experiment_folded_alone(values, margin):
    rng = np.random.default_rng(8)
    runs, size = 5, 40
    batch = PairBatch(runs, margin=margin, min_effect=0.05)
    alone = [pairs.begin(margin=margin, min_effect=0.05) for _ in range(runs)]
    for _ in range(6):
        d = rng.choice(values, (runs, size))
        found = batch.fold(d)
        alone = [state.fold(np.maximum(-d[run], 0), np.maximum(d[run], 0)) for run, state in enumerate(alone)]
        for side in ("better", "harm", "futile"):
            expected = [getattr(state, f"log_e_{side}")() for state in alone]
            np.testing.assert_allclose(found[side][:, -1], expected, rtol=1e-9, atol=1e-9)


def test_looking_after_every_unit_is_looking_at_the_beginning_of_its_block():
    rng = np.random.default_rng(3)
    w, y = rng.random((1, 50)) < 0.5, rng.random((1, 50))
    batch = Batch(1, min_effect=0.05)
    batch.fold(w, y, 0.5)
    first = betting.begin(min_effect=0.05).fold(w[0], y[0], np.full(50, 0.5))
    path = batch.fold(w, y, 0.5)["better"][0]
    for unit in (0, 17, 49):
        part = slice(0, unit + 1)
        assert path[unit] == pytest.approx(first.fold(w[0][part], y[0][part], np.full(unit + 1, 0.5)).log_e_better())


def test_a_counted_column_stands_for_that_many_units():
    w, y = np.array([[0, 0, 1, 1]]), np.array([[0.0, 1, 0, 1]])
    counted, long = Batch(1, min_effect=0.1), Batch(1, min_effect=0.1)
    count = np.array([[3, 7, 0, 9]])
    short = counted.fold(w, y, 0.3, count)
    full = long.fold(np.repeat(w, count[0], axis=1), np.repeat(y, count[0], axis=1), 0.3)
    assert all(short[side][0, -1] == pytest.approx(full[side][0, -1]) for side in short)
    np.testing.assert_allclose(counted.moments, long.moments)


def test_runs_that_are_kept_go_on_where_they_were():
    rng = np.random.default_rng(5)
    w, y = rng.random((3, 30)) < 0.5, rng.random((3, 30))
    whole, kept = Batch(3), Batch(3)
    whole.fold(w, y, 0.5)
    kept.fold(w, y, 0.5)
    kept.keep(np.array([False, True, False]))
    expected = whole.fold(w, y, 0.5)["harm"][1]
    np.testing.assert_allclose(kept.fold(w[1:2], y[1:2], 0.5)["harm"][0], expected)
