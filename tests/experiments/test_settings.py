import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from experiments.quantities import SECOND
from experiments.settings import ExperimentOptions, check_split

HOUR = 3600 * SECOND


def test_defaults_are_those_of_the_contract():
    settings = ExperimentOptions().resolve()
    assert (settings.objective, settings.randomize, settings.ramp) == ("better", "unit", (0.1, 0.5))
    assert (settings.alpha, settings.min_effect, settings.holdback) == (0.05, 0.03, 0.05)
    assert (settings.max_units, settings.min_units, settings.ramp_units, settings.holdback_units) == (
        20_000, 100, 200, 1_000
    )  # fmt: skip
    assert (settings.min_duration, settings.max_duration) == (24 * HOUR, 720 * HOUR)
    assert (settings.outcome_window, settings.block) == (24 * HOUR, HOUR)


@pytest.mark.parametrize(("window", "block"), [("48h", 2 * HOUR), ("24s", SECOND), ("2s", SECOND)])
def test_a_block_is_a_part_of_the_window_but_never_below_a_second(window, block):
    assert ExperimentOptions(outcome_window=window).resolve().block == block


def test_each_layer_speaks_only_where_it_was_written():
    definition = ExperimentOptions(alpha=0.1, max_units=500, randomize="request")
    request = ExperimentOptions(max_units=900, block="5s")
    settings = request.over(definition).resolve()
    assert (settings.alpha, settings.max_units, settings.randomize, settings.block) == (0.1, 900, "request", 5 * SECOND)


def test_a_split_turns_off_a_ramp_below_it_and_keeps_one_beside_it():
    below = ExperimentOptions(ramp=(0.1, 0.3))
    split = {"base": 0.7, "new": 0.3}
    assert ExperimentOptions(split=split).over(below).resolve().ramp == ()
    assert ExperimentOptions(split=split, ramp=(0.3, 0.5)).over(below).resolve().ramp == (0.3, 0.5)


def test_a_split_in_the_definitions_holds_where_no_ramp_is_written():
    roles = {"champion": 0.5, "challenger": 0.5}
    assert ExperimentOptions().over(ExperimentOptions(split=roles)).resolve().ramp == ()
    assert ExperimentOptions().over(ExperimentOptions(split=roles, ramp=(0.5, 0.8))).resolve().ramp == (0.5, 0.8)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": 1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"min_effect": 0}, "min_effect"),
        ({"ramp": (0.5, 0.1)}, "ramp"),
        ({"ramp": (0.1, 0.1)}, "ramp"),
        ({"ramp": (0.1, 1.0)}, "ramp"),
        ({"ramp": tuple(i / 100 for i in range(1, 23))}, "ramp"),
        ({"max_units": 0}, "max_units"),
        ({"min_units": 10**13}, "min_units"),
        ({"holdback": 1}, "holdback"),
        ({"holdback": -0.1}, "holdback"),
        ({"min_duration": "soon"}, "min_duration: 'soon' is not a duration"),
        ({"outcome_window": 0.5}, "outcome_window: .* is not at least 1s"),
        ({"block": "0s"}, "block: .* is not at least 1s"),
        ({"covariates": ("a", "a")}, "covariates: at most 5 keys"),
        ({"covariates": ("",)}, "covariates"),
        ({"covariates": tuple("abcdef")}, "covariates"),
        ({"split": {"base": 0.5, "new": 0.4}}, "split: the shares sum to 0.9, not to 1"),
    ],
)
def test_options_out_of_range_are_refused_by_name(terms, message):
    with pytest.raises(ValueError, match=message):
        ExperimentOptions(**terms)


def test_unknown_options_are_refused():
    with pytest.raises(msgspec.ValidationError, match="alhpa"):
        msgspec.json.decode(b'{"alhpa": 0.05}', type=ExperimentOptions)


def test_the_shortest_duration_cannot_pass_the_longest():
    with pytest.raises(ValueError, match="min_duration is longer than max_duration"):
        ExperimentOptions(min_duration="31d").resolve()


def test_options_read_from_json_write_back_what_was_written():
    written = b'{"ramp":[0.2],"max_units":50,"min_duration":"0s"}'
    options = msgspec.json.decode(written, type=ExperimentOptions)
    assert msgspec.json.decode(msgspec.json.encode(options)) == msgspec.json.decode(written)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6).filter(lambda parts: sum(parts) > 0))
def test_shares_that_sum_to_one_pass(parts):
    check_split({f"arm-{i}": part / sum(parts) for i, part in enumerate(parts)})


@pytest.mark.parametrize(
    "split",
    [
        {},
        {"base": 1.5, "new": -0.5},
        {"base": 0.5, "new": float("nan")},
        {"base": 0.0, "new": 0.0},
        {"base": 0.999_999},
    ],
)
def test_shares_that_do_not_make_a_split_are_refused(split):
    with pytest.raises(ValueError, match="split"):
        check_split(split)
