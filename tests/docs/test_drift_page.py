"""The table of the drift page is what the benchmark last measured, not what somebody typed."""

from benchmarks import _page as page
from benchmarks import drift


def test_the_page_shows_the_lines_last_kept():
    text = drift.PAGE.read_text()
    assert page.BEGIN in text
    assert text == page.filled(text, drift.kept()), "run `python -m benchmarks.drift --page`"


def test_every_goal_of_the_detector_is_measured():
    goals = {line["goal"].split()[0] for line in drift.kept()}
    assert goals == {str(number) for number in range(1, 11)}
