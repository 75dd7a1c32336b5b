"""The dashboards as they are kept: made from the code, complete, and about families that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from monitoring.metrics import Metrics
from tests.generated import files
from tests.monitoring import queries

BOARDS = {path.stem: json.loads(path.read_text()) for path in queries.DASHBOARDS}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_what_is_made_from_code_is_kept_as_it_is_made(path: Path) -> None:
    assert path.read_text() == files()[path], "run `make generate`"


def test_there_are_three_dashboards_with_names_of_their_own() -> None:
    assert set(BOARDS) == {"serving", "experiments-and-drift", "learning-and-cost"}
    assert len({board["uid"] for board in BOARDS.values()}) == 3
    assert all(board["schemaVersion"] >= 39 for board in BOARDS.values())


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())
def test_every_panel_has_a_unit_and_answers_a_question(board: dict[str, Any]) -> None:
    assert 4 <= len(board["panels"]) <= 10
    for panel in board["panels"]:
        question, _, answer = panel["description"].partition("\n\n")
        assert re.fullmatch(r"\*\*.+\?\*\*", question), panel["title"]
        assert len(answer) > 40, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"])
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())
def test_program_and_variant_can_be_picked_and_moments_are_marked(board: dict[str, Any]) -> None:
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "program", "variant"]
    assert {"Promotion", "Configuration"} <= {annotation["name"] for annotation in board["annotations"]["list"]}


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())
def test_panels_do_not_overlap(board: dict[str, Any]) -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_every_family_that_is_asked_for_exists() -> None:
    """Also where no Prometheus is installed, so that a misspelt name never gets far."""
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    known = {family.name + suffix for family in Metrics().families for suffix in suffixes.get(family.kind, ("",))} | {
        rule["record"] for rule in queries.rules() if "record" in rule
    }
    for place, expr in [*queries.panels(), *queries.annotations(), *queries.variables(), *queries.ruled()]:
        assert queries.names(expr), place
        assert queries.names(expr) <= known, place


def test_every_family_is_shown_by_a_panel_an_alert_or_both() -> None:
    """A series that nobody looks at is a cost."""
    asked = [*queries.panels(), *queries.annotations(), *queries.ruled()]
    shown = {name for _, expr in asked for name in queries.names(expr)}
    for family in Metrics().families:
        assert any(name.startswith(family.name) for name in shown) or family.name in {
            "ratchet_drift_baseline_outcomes",  # how long a detector has learnt, and since when it is alarmed:
            "ratchet_drift_change_timestamp_seconds",  # for the query by hand that follows an alarm
        }, family.name
