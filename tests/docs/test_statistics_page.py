"""The tables of the statistics page are what the benchmark last measured, not what somebody typed."""

import json

from benchmarks import _page as page
from benchmarks._goals import Goal, Row, Table


def test_the_page_shows_the_lines_last_kept():
    text = page.PAGE.read_text()
    assert page.BEGIN in text
    assert text == page.filled(text, page.kept()), "run `python -m benchmarks.statistics --page`"


def test_lines_measured_again_replace_those_of_their_measure_only(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LINES", tmp_path / "lines.jsonl")
    old, other = ({"goal": goal, "measure": goal, "measured": 1.0} for goal in ("a", "b"))
    page.keep([old, other])
    page.keep([{**old, "measured": 2.0}])
    assert {line["goal"]: line["measured"] for line in page.kept()} == {"a": 2.0, "b": 1.0}


def test_a_missed_goal_and_one_that_is_not_built_are_shown_as_such():
    kept = Row(Goal("kept", "<= 0.05"), 0.04, {"naive": 0.5}, runs=10).line()
    missed = Row(Goal("missed", ">= 2"), 1.5).line()
    absent = Row(Goal("absent", "<= 1"), None).line()
    assert [line["met"] for line in (kept, missed, absent)] == [True, False, False]
    assert json.loads(json.dumps(kept)) == kept
    shown = page.tables([kept, missed, absent]).splitlines()
    assert "| kept | <= 0.05 | 0.04 | yes | naive 0.5 | 10 |" in shown
    assert "| absent | <= 1 | not built | **no** |  |  |" in shown
    assert shown[-1] == "1 of 3 goals are met."


def test_numbers_beside_the_goals_have_a_table_of_their_own():
    power = Table("Power", ("effect", "at 10", "at 20"), {"small": [0.123456, 0.5], "large": [1.0, 1.0]}, 40).line()
    assert json.loads(json.dumps(power)) == power
    assert page.tables([power]).splitlines()[2:] == [
        "",
        "0 of 0 goals are met.",
        "",
        "Power (40 runs each):",
        "",
        "| effect | at 10 | at 20 |",
        "| --- | --- | --- |",
        "| small | 0.1235 | 0.5 |",
        "| large | 1 | 1 |",
    ]
