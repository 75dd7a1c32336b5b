"""What the leader shows comes from the database alone: all of it is there after one tick of a new leader."""

import asyncio
import math
from typing import Any

from experiments.quantities import DOLLAR, SECOND, dollars
from learning.compile_runs import Budget, CompileRun, Progress
from server.clock import new_id
from server.loop.drifting import drift
from server.showing import show, survey
from server.store.compiles import insert_run
from server.trials.ticking import tick
from tests.application import DEFINITIONS, Application, Clock, application
from tests.scripted_lm import chat

DAY = 86_400 * SECOND


def by_variant(_model: str, prompt: str) -> str:
    return chat(category="other" if "Be terse." in prompt else "bug")


async def traffic(app: Application, category: str, **options: Any) -> None:
    """Forty predictions in an experiment of two arms, all but one of them labelled alike."""
    made = await app.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "Be terse."})
    assert made.status_code == 201, made.text
    wanted = {
        "program": "triage",
        "challengers": ["terse"],
        "split": {"base": 0.5, "terse": 0.5},
        "outcome_window": 60,
        "block": 1,
        **options,
    }
    drafted = (await app.http.post("/v1/experiments", json=wanted)).json()
    await app.http.post(f"/v1/experiments/{drafted['experiment_id']}/start", json={"reason": "try"})
    about = [(await app.predict(unit=f"user-{number}")).json()["prediction_id"] for number in range(40)]
    await app.ratchet.traffic.drained()
    await app.report(*({"prediction_id": one, "label": {"category": category}} for one in about[1:]))


def told(app: Application) -> dict[str, float]:
    """Every series of the domain, with its value."""
    families = {family.name for family in app.ratchet.metrics.families if family.led}
    lines = [line.rpartition(" ") for line in app.ratchet.metrics.render().decode().splitlines()]
    return {name: float(value) for name, _, value in lines if name.partition("{")[0] in families}


def test_after_a_change_of_leader_all_is_shown_again_within_a_tick(database_url: str) -> None:
    clock = Clock()

    async def play() -> None:
        async with application(database_url, by_variant, now=clock) as app:
            app.ratchet.metrics.led(mine=True)
            await traffic(app, "other")
            clock.ahead = 2 * DAY
            for job in (tick, drift, show, survey):
                await job(app.ratchet)
            shown = told(app)
            assert shown['ratchet_experiment_progress_ratio{program="triage"}'] == 40 / 20_000
            assert shown['ratchet_experiment_log_evidence_threshold{program="triage",side="harm"}'] > 4
            effect = 'bound="estimate",metric="correct",program="triage",variant="terse"'
            assert shown[f"ratchet_experiment_effect_ratio{{{effect}}}"] > 0.5
            assert 'ratchet_drift_evidence_ratio{program="triage",signal="score",variant="base"}' in shown
            assert shown['ratchet_drift_last_update_timestamp_seconds{program="triage"}'] > 0

            app.ratchet.metrics.led(mine=False)
            assert told(app) == {}
            app.ratchet.metrics.led(mine=True)
            for job in (tick, show, survey):  # nothing has matured since
                await job(app.ratchet)
            assert told(app) == shown

    asyncio.run(play())


def test_what_is_surveyed_are_the_figures_of_the_analytics(database_url: str) -> None:
    """By pairs, so that answers nobody was served are among them."""
    clock = Clock()

    async def play() -> None:
        async with application(database_url, by_variant, now=clock) as app:
            await traffic(app, "bug", pairs=True)
            await survey(app.ratchet)
            assert not told(app), "nothing has matured"
            clock.ahead = DAY + 3600 * SECOND
            await survey(app.ratchet)
            shown = told(app)
            figures = (await app.http.get("/v1/programs/triage/analytics")).json()["variants"]
            base, terse = (next(each for each in figures if each["variant"] == name) for name in ("base", "terse"))
            assert (base["predictions"], base["shadows"], terse["predictions"]) == (40, 0, 0)
            assert 10 < terse["shadows"] < 30
            assert terse["errors"] == 0
            assert terse["latency_ms"] == {"p50": None, "p95": None, "p99": None}
            assert terse["cost_usd"] == dollars(terse["shadows"] * 120 * DOLLAR // 10**6)
            assert terse["cost_per_prediction_usd"] == base["cost_per_prediction_usd"] == "0.00012"
            assert terse["cost_per_correct_usd"] is None, "none is right"
            for each in (base, terse):
                score = f'ratchet_score_ratio{{metric="correct",program="triage",variant="{each["variant"]}"}}'
                assert shown[score] == each["scores"]["correct"]["mean"]
            cost = shown['ratchet_cost_per_correct_dollars{program="triage",variant="base"}']
            assert math.isclose(cost, float(base["cost_per_correct_usd"]))
            assert shown['ratchet_outcome_coverage_ratio{program="triage",variant="base"}'] == 39 / 40

    asyncio.run(play())


def test_compile_runs_are_added_up_with_their_money(database_url: str) -> None:
    definitions = DEFINITIONS + "    learning: {monthly_budget_usd: 5}\n"

    def run(at: int, **stated: Any) -> CompileRun:
        values = {"state": "succeeded", "reason": "drift", "optimizer": "gepa", "champion": "base", **stated}
        budget = Budget(cost=None, metric_calls=100, time=SECOND)
        return CompileRun(compile_id=new_id(), program="triage", budget=budget, created_at=at, **values)

    async def play() -> None:
        async with application(database_url, definitions=definitions) as app:
            now, write = app.ratchet.now(), app.ratchet.store.write
            await write(insert_run, run(now - 40 * DAY, spent=3 * DOLLAR, finished_at=now))
            await write(insert_run, run(now, state="rejected", reason="schedule", spent=DOLLAR, finished_at=now))
            under_way = Progress(metric_calls=30, metric_calls_budget=120)
            await write(insert_run, run(now, state="running", reason="operator", spent=DOLLAR // 2, progress=under_way))
            await show(app.ratchet)
            shown = told(app)
            for state, number in (("succeeded", 1), ("rejected", 1), ("running", 1), ("failed", 0)):
                assert shown[f'ratchet_compile_runs{{program="triage",state="{state}"}}'] == number
            assert shown['ratchet_compile_cost_dollars_total{program="triage"}'] == 4.5
            assert shown['ratchet_compile_month_cost_dollars{program="triage"}'] == 1.5
            assert shown['ratchet_compile_month_budget_dollars{program="triage"}'] == 5.0
            assert shown['ratchet_compile_progress_ratio{program="triage"}'] == 0.25
            assert shown['ratchet_compile_last_progress_timestamp_seconds{program="triage"}'] == now / SECOND
            ended = 'ratchet_recompiles_total{program="triage",reason="schedule",result="rejected"}'
            assert shown[ended] == 1.0

    asyncio.run(play())
