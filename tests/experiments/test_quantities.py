from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from experiments.quantities import DOLLAR, SECOND, dollars, duration, fraction, money


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(90, 90), (0.5, 0.5), (0, 0), ("30s", 30), ("5m", 300), ("24h", 86_400), ("90d", 7_776_000), ("1.5h", 5_400),
     ("250ms", 0.25), ("0s", 0), ("2 h", 7_200)],
)  # fmt: skip
def test_durations_are_read_as_written(written, seconds):
    assert duration(written) == seconds * SECOND


@pytest.mark.parametrize(
    "written",
    ["", "90", "h", "-1s", "1w", "1e3s", "1h30m", "24H", -1, 1e10, float("nan"), float("inf"), True, None, [], "٣s x"],
)
def test_what_is_no_duration_is_refused_with_examples(written):
    with pytest.raises(ValueError, match="is not a duration; write seconds as a number"):
        duration(written)


@pytest.mark.parametrize("written", ["3661d", "999999999999d", 9e9])
def test_durations_end_at_ten_years(written):
    with pytest.raises(ValueError, match="longer than ten years"):
        duration(written)


@given(st.integers(0, 10**12))
def test_money_written_out_reads_back_exactly(picodollars):
    assert money(dollars(picodollars)) == picodollars


@given(st.decimals(0, 10**6, places=6))
def test_money_agrees_with_decimal_arithmetic(amount):
    assert money(str(amount)) == int(amount * DOLLAR)
    assert Decimal(dollars(int(amount * DOLLAR))) == amount


def test_a_float_counts_as_its_shortest_writing():
    assert money(0.15) == 15 * DOLLAR // 100
    assert dollars(money(0.1) + money(0.2)) == "0.3"


def test_dollars_have_no_exponent_and_no_idle_zeros():
    assert [dollars(n) for n in (1, 0, 5 * DOLLAR, 1_500_000)] == ["0.000000000001", "0", "5", "0.0000015"]


@pytest.mark.parametrize("written", ["", "five", "-1", -0.01, "1e-13", "1e10", float("nan"), "NaN", "Infinity", "$5"])
def test_what_is_no_amount_is_refused_with_examples(written):
    with pytest.raises(ValueError, match="is not an amount in dollars"):
        money(written)


@pytest.mark.parametrize(("written", "value"), [("10%", 0.1), (0.1, 0.1), ("0.1", 0.1), ("-5%", -0.05), (2, 2.0)])
def test_fractions_are_numbers_or_percentages(written, value):
    assert fraction(written) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("written", ["", "%", "ten", "10%%", float("nan"), float("inf"), "1e10"])
def test_what_is_no_fraction_is_refused_with_an_example(written):
    with pytest.raises(ValueError, match="is not a number or a percentage such as '10%'"):
        fraction(written)
