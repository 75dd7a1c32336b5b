"""The alerts: sound, each with a severity and a runbook, each tested by cases that fire and cases that must not."""

import re
from typing import Any

import pytest
import yaml

from tests.monitoring import queries
from tests.prometheus import promtool

TESTS = queries.RULES.with_name("tests.yaml")


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", queries.RULES)


def test_every_alert_fires_when_it_must_and_is_silent_when_it_must_be() -> None:
    promtool("test", "rules", TESTS)


@pytest.mark.parametrize("alert", queries.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket", "info"}
    assert {"summary", "description", "runbook_url"} == set(alert["annotations"])
    runbook = (queries.ROOT / alert["annotations"]["runbook_url"]).read_text()
    assert alert["alert"] in runbook
    assert re.findall("^## (.+)$", runbook, re.MULTILINE) == ["Look", "Do"]


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fires = TESTS.read_text()
    for alert in queries.alerts():
        assert re.search(rf'alertname="{alert["alert"]}", alertstate="firing"|alertname: {alert["alert"]}\n', fires)


def test_a_healthy_installation_is_tested_with_every_family_that_an_alert_looks_at() -> None:
    healthy = yaml.safe_load(TESTS.read_text())["tests"][0]
    given = {name for series in healthy["input_series"] for name in queries.names(series["series"])}
    recorded = {rule["record"] for rule in queries.rules() if "record" in rule}
    asked = {name for rule in queries.rules() for name in queries.names(rule["expr"])} - recorded
    # Without a run under way, or an alarm, its families have no series.
    assert asked - given == {"ratchet_compile_last_progress_timestamp_seconds"}


def test_every_runbook_is_in_their_index() -> None:
    folder = queries.ROOT / "docs/runbooks"
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {page.name for page in folder.glob("*.md")} - {"README.md"}
    assert listed == {alert["annotations"]["runbook_url"].rpartition("/")[2] for alert in queries.alerts()}
