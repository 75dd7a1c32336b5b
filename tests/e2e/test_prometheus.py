"""A real Prometheus scrapes a real server while traffic runs, and every PromQL that we ship finds its series.

Beside the server stands a second target, `tests/monitoring/world.py`: a real `Metrics` of an installation in which
everything has happened that a fresh server has not seen, such as alarms, compile runs and a definitions file refused.
"""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import pytest

from tests.e2e.desk import GOOD, Desk, until
from tests.monitoring import queries
from tests.monitoring.queries import filled
from tests.monitoring.world import TRACE, everything, scraped
from tests.prometheus import Prometheus, installed, prometheus
from tests.servers import DEFINITIONS, RunningServer

CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: ratchet
    static_configs: [{{targets: ["127.0.0.1:{server}", "127.0.0.1:{world}"]}}]
"""
EXPERIMENTS = """
    experiments: {ramp: [], split: {champion: 0.5, challenger: 0.5}, min_duration: 1d, outcome_window: 2s, block: 1s}
"""
SERVER, WORLD = "triage", "p"


class Scene(NamedTuple):
    """Prometheus, and the server it scrapes."""

    prometheus: Prometheus
    server: RunningServer


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Traffic in an experiment, scraped every second; it goes on to the end of the tests."""
    installed("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    definitions, rules = folder / "ratchet.yaml", folder / "rules.yaml"
    definitions.write_text(DEFINITIONS + EXPERIMENTS)
    rules.write_text(queries.RULES.read_text().replace("interval: 30s", "interval: 1s"))
    with ExitStack() as stack:
        server = stack.enter_context(
            RunningServer(folder / "data", config=definitions, environment={"RATCHET_TICK": "500ms"})
        )
        with server.client() as http:
            http.post(f"/v1/programs/{SERVER}/variants", json={"name": "better", "instructions": GOOD})
        made = server.command("experiments", "create", SERVER, "better", "--start", "--json")
        assert made.returncode == 0, made.stderr
        world = stack.enter_context(scraped(everything()))
        configuration = CONFIGURATION.format(rules=rules, server=server.port, world=world)
        stack.enter_context(Desk(lambda: server.url, SERVER))
        found = stack.enter_context(prometheus(folder, configuration))
        ratio = "program:ratchet_prediction_errors:ratio_rate5m"
        for last in (ratio, "ratchet_experiment_effect_ratio", "ratchet_drift_null_score_ratio"):
            until(partial(shown_of_both, found, last))
        yield Scene(found, server)


def test_both_targets_are_scraped_without_a_fault(scene: Scene) -> None:
    targets = scene.prometheus.ask("targets")["activeTargets"]
    assert {target["health"] for target in targets} == {"up"}, targets
    assert len(targets) == 2


def test_every_panel_shows_something(scene: Scene) -> None:
    assert not silent(scene, ((place, filled(expr)) for place, expr in queries.panels()))


def test_every_panel_shows_one_program_where_one_is_picked(scene: Scene) -> None:
    for _, expr in queries.panels():
        shown = scene.prometheus.query(filled(expr.replace("$program", WORLD).replace("$variant", "base|new")))
        assert shown, expr
        assert {series["metric"].get("program", WORLD) for series in shown} == {WORLD}


def test_what_traffic_moves_is_shown_of_the_server_itself(scene: Scene) -> None:
    """No 0 / 0 of a target that stands still: rates, the experiment that runs, the watch for drift."""
    for place, expr in queries.panels():
        if place.startswith(("serving: ", "experiments-and-drift: ")) and not place.endswith(": Scores"):
            shown = scene.prometheus.query(filled(expr.replace("$program", SERVER)))
            assert any(series["value"][1] != "NaN" for series in shown), expr


def test_every_annotation_can_mark_something(scene: Scene) -> None:
    parts = ((place, part) for place, expr in queries.annotations() for part in queries.unconditional(filled(expr)))
    assert not silent(scene, parts)


def test_every_variable_has_values(scene: Scene) -> None:
    for _, expr in queries.variables():
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", filled(expr))
        assert found is not None
        selector, label = found.groups()
        assert scene.prometheus.ask(f"label/{label}/values", **{"match[]": selector}), expr


def test_every_rule_and_alert_meets_its_series(scene: Scene) -> None:
    """An alert's conditions aside: `promtool test rules` is about those."""
    for _, expr in queries.ruled():
        scene.prometheus.query(expr)
    assert not silent(scene, ((place, part) for place, expr in queries.ruled() for part in queries.unconditional(expr)))


def test_every_series_that_is_named_is_there(scene: Scene) -> None:
    """Each by itself: what stands beside it in an `or`, an `unless` or a sum would hide that it is misspelt."""
    asked = [*queries.panels(), *queries.annotations(), *queries.ruled()]
    assert not silent(scene, ((place, one) for place, expr in asked for one in queries.selectors(filled(expr))))


def test_a_misspelt_name_would_be_noticed(scene: Scene) -> None:
    assert not scene.prometheus.query("ratchet_prediction_total")
    assert scene.prometheus.query("ratchet_predictions_total")


def test_what_must_fire_does_where_much_is_wrong_and_not_where_nothing_is(scene: Scene) -> None:
    wrong = {"RatchetDriftAlarm", "RatchetBudgetNearlySpent", "RatchetCompileStalled"}

    def firing(program: str) -> set[str]:
        alerts = scene.prometheus.query(f'ALERTS{{alertstate="firing",program="{program}"}}')
        return {alert["metric"]["alertname"] for alert in alerts} & wrong

    assert until(lambda: firing(WORLD) == wrong, seconds=20)
    assert firing(SERVER) == set()


def test_the_trace_of_a_slow_prediction_is_found_from_its_duration(scene: Scene) -> None:
    found = scene.prometheus.ask(
        "query_exemplars",
        query="ratchet_prediction_duration_seconds_bucket",
        start=time.time() - 300,
        end=time.time() + 60,
    )
    assert {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]} == {TRACE}


def shown_of_both(found: Prometheus, name: str) -> bool:
    return {SERVER, WORLD} <= {series["metric"]["program"] for series in found.query(name)}


def silent(scene: Scene, asked: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the expressions that have no series, each with its place."""
    return [(place, expr) for place, expr in asked if not scene.prometheus.query(expr)]
