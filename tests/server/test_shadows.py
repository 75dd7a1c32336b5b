"""Experiments by pairs through the real application: the champion serves, the challenger answers beside it."""

import asyncio
from typing import Any

import pytest
from dspy.lm15 import ServerError

from experiments.facts import shadow_id
from experiments.quantities import SECOND
from server.store.facts import Example, example
from server.trials.lifecycle import replayed
from server.trials.ticking import tick
from server.trials.watching import watch
from tests.application import DEFINITIONS, Application, Clock, application
from tests.scripted_lm import Reply, Script, chat

LABEL = {"category": "bug"}
SETTINGS = {
    "pairs": True,
    "split": {"base": 0.5, "terse": 0.5},
    "min_units": 20,
    "min_duration": 0,
    "outcome_window": 60,
    "block": 1,
    "holdback": 0,
}


def answering(base: Any, terse: Any) -> Script:
    """A model whose champion says one thing, and whose challenger another."""
    return lambda _model, prompt: terse if "Be terse." in prompt else base


async def begun(app: Application, **options: Any) -> str:
    """A running experiment by pairs of `base` and `terse`."""
    made = await app.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "Be terse."})
    assert made.status_code == 201, made.text
    wanted = {"program": "triage", "challengers": ["terse"], **SETTINGS, **options}
    drafted = await app.http.post("/v1/experiments", json=wanted)
    assert drafted.status_code == 201, drafted.text
    experiment_id = str(drafted.json()["experiment_id"])
    started = await app.http.post(f"/v1/experiments/{experiment_id}/start", json={"reason": "try"})
    assert started.status_code == 200, started.text
    return experiment_id


async def paired(app: Application) -> str:
    """A prediction that was drawn for a pair."""
    while True:
        answer = (await app.predict()).json()
        assert answer["assigned_variant"] == answer["variant"] == "base"
        if answer["experiment_id"]:
            return str(answer["prediction_id"])


async def label(app: Application, *ids: str) -> list[str]:
    return [one["status"] for one in await app.report(*({"prediction_id": one, "label": LABEL} for one in ids))]


async def shadow(app: Application, prediction_id: str) -> Example | None:
    await app.ratchet.traffic.drained()
    return await app.ratchet.store.read(example, shadow_id(prediction_id))


def test_the_champion_serves_and_one_label_scores_both_answers(database_url: str) -> None:
    async def play() -> None:
        async with application(database_url, answering(chat(category="other"), chat(category="bug"))) as app:
            experiment_id = await begun(app)
            served = await paired(app)
            assert await shadow(app, served) is not None
            assert await label(app, served) == ["accepted"]
            assert await label(app, served) == ["duplicate"]
            found, beside = await app.ratchet.store.read(example, served), await shadow(app, served)
            assert found is not None
            assert beside is not None
            assert (beside.prediction.assigned_variant, beside.prediction.experiment_id) == ("terse", experiment_id)
            assert beside.prediction.cost is not None
            assert {call.variant for call in found.prediction.calls} == {"base"}
            assert [(one.metric, one.value) for one in found.outcomes] == [("correct", 0.0)]
            assert [(one.metric, one.value) for one in beside.outcomes] == [("correct", 1.0)]
            assert beside.outcomes[0].received_at >= found.outcomes[0].received_at

    asyncio.run(play())


def test_a_slow_shadow_delays_nobody_and_is_scored_by_a_label_that_came_before_it(database_url: str) -> None:
    slow = Reply(chat(category="bug"), seconds=0.6)

    async def play() -> None:
        async with application(database_url, answering(chat(category="other"), slow)) as app:
            await begun(app)
            served = await paired(app)
            assert await app.ratchet.store.read(example, shadow_id(served)) is None
            assert app.ratchet.traffic.horizon(app.ratchet.now()) < app.ratchet.now() - 1
            assert await label(app, served) == ["accepted"]
            assert await app.ratchet.store.read(example, shadow_id(served)) is None
            beside = await shadow(app, served)
            assert beside is not None
            assert [one.value for one in beside.outcomes] == [1.0]

    asyncio.run(play())


def test_of_two_labels_the_one_that_stands_scores_the_shadow(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url, answering(chat(category="bug"), chat(category="other"))) as app:
            await begun(app)
            served = await paired(app)
            other = {"prediction_id": served, "label": {"category": "other"}}
            assert await label(app, served) == ["accepted"]
            assert [one["status"] for one in await app.report(other)] == ["conflict"]
            beside = await shadow(app, served)
            assert beside is not None
            assert [(one.value, one.status) for one in beside.outcomes] == [(0.0, "accepted")]

    asyncio.run(play())


@pytest.mark.parametrize("trouble", [ServerError("down"), Reply(chat(category="bug"), seconds=5)])
def test_a_shadow_that_fails_or_is_too_late_has_the_worst_score_and_spoils_no_answer(
    sqlite_url: str, trouble: Any
) -> None:
    hurried = DEFINITIONS.replace("timeout: 5s", "timeout: 500ms")

    async def play() -> None:
        script = answering(chat(category="bug"), trouble)
        async with application(sqlite_url, script, definitions=hurried) as app:
            await begun(app)
            served = await paired(app)
            assert await label(app, served) == ["accepted"]
            beside = await shadow(app, served)
            assert beside is not None
            assert beside.prediction.status == "error"
            assert [one.value for one in beside.outcomes] == [0.0]

    asyncio.run(play())


def test_nobody_reports_about_an_answer_that_nobody_got(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            await begun(app)
            served = await paired(app)
            await shadow(app, served)
            (told,) = await app.report({"prediction_id": shadow_id(served), "label": LABEL})
            assert told["status"] == "rejected"
            assert f"report about {served!r}" in told["detail"]

    asyncio.run(play())


def test_a_challenger_better_on_the_same_requests_is_promoted_and_the_replay_agrees(database_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        script = answering(chat(category="other"), chat(category="bug"))
        async with application(database_url, script, now=clock) as app:
            experiment_id = await begun(app)
            for _ in range(60):
                assert await label(app, await paired(app)) == ["accepted"]
            await app.ratchet.traffic.drained()
            clock.ahead += 5 * SECOND
            await tick(app.ratchet)
            found = (await app.http.get(f"/v1/experiments/{experiment_id}")).json()
            assert (found["state"], found["verdict"]) == ("concluded", "promote"), found
            assert (found["settings"]["pairs"], found["randomize"]) == (True, "request")
            report = (await app.http.get(f"/v1/experiments/{experiment_id}/report")).json()
            assert [arm["units"] for arm in report["arms"]] == [60, 60]
            assert not report["srm"]["violated"]
            assert not report["arrival"]["violated"]
            assert report["comparisons"][0]["estimate"] == 1.0
            assert (await app.predict()).json()["variant"] == "terse"
            again = await replayed(app.ratchet, experiment_id)
            assert (again.decisions, again.differences) == (1, ())

    asyncio.run(play())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"goal": "solved"}, "the goal must be scored by a label"),
        ({"guardrails": ["latency"]}, "a guardrail must be known of both answers"),
        ({"objective": "as_good_and_cheaper"}, "costs are not compared by pairs"),
        ({"goal": "nonsense"}, "no metric is called"),
        ({"allocation": "adaptive"}, "there is no split for allocation: adaptive"),
    ],
)
def test_what_cannot_be_paired_is_refused(sqlite_url: str, options: dict[str, Any], why: str) -> None:
    async def play() -> None:
        definitions = DEFINITIONS.replace("{kind: latency}", "{kind: latency, margin: 10%}")
        async with application(sqlite_url, definitions=definitions) as app:
            await app.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "Be terse."})
            wanted = {"program": "triage", "challengers": ["terse"], "pairs": True, **options}
            answer = await app.http.post("/v1/experiments", json=wanted)
            assert answer.status_code == 400, answer.text
            assert why in answer.text

    asyncio.run(play())


def test_a_plan_of_pairs_takes_the_fewer_units_the_more_often_answers_agree(sqlite_url: str) -> None:
    async def play() -> None:
        async with application(sqlite_url) as app:
            asked = {"program": "triage", "units_per_day": 4000, "baseline": {"correct": 0.7}, "min_effect": 0.05}
            asked["min_duration"] = 0
            found = [
                (await app.http.post("/v1/experiments/plan", json={**asked, **how})).raise_for_status().json()
                for how in ({"pairs": True, "agreement": 0.9}, {"pairs": True}, {})
            ]
            assert [plan["agreement"] for plan in found] == [0.9, None, None]
            often, by_chance, split = (plan["expected_units"]["mean"] for plan in found)
            assert 3 * often < by_chance < split
            assert found[0]["chances"]["promote"] > 0.8

    asyncio.run(play())


def test_the_holdback_after_a_promotion_by_pairs_tosses_a_coin(sqlite_url: str) -> None:
    async def play() -> None:
        clock = Clock()
        async with application(sqlite_url, answering(chat(category="other"), chat(category="bug")), now=clock) as app:
            experiment_id = await begun(app, holdback=0.5, holdback_units=5)
            await label(app, *[await paired(app) for _ in range(60)])
            await app.ratchet.traffic.drained()
            clock.ahead += 5 * SECOND
            await tick(app.ratchet)
            answers = [(await app.predict()).json() for _ in range(30)]
            assert {answer["variant"] for answer in answers} == {"base", "terse"}
            assert {answer["propensity"] for answer in answers} == {0.5}
            await label(app, *(answer["prediction_id"] for answer in answers))
            assert await shadow(app, answers[0]["prediction_id"]) is None
            clock.ahead += 5 * SECOND
            await watch(app.ratchet)
            report = (await app.http.get(f"/v1/experiments/{experiment_id}/report")).json()
            assert report["holdback"]["state"] == "passed", report["holdback"]
            assert (await replayed(app.ratchet, experiment_id)).agrees

    asyncio.run(play())


def test_a_service_level_is_weighed_on_both_answers(sqlite_url: str) -> None:
    definitions = DEFINITIONS.replace("{kind: latency}", "{kind: latency, limit: 200ms, margin: 0.05}")
    script = answering(chat(category="bug"), Reply(chat(category="bug"), seconds=0.3))

    async def play() -> None:
        clock = Clock()
        async with application(sqlite_url, script, definitions=definitions, now=clock) as app:
            experiment_id = await begun(app, guardrails=["latency"])
            await label(app, *[await paired(app) for _ in range(30)])
            await app.ratchet.traffic.drained()
            clock.ahead += 5 * SECOND
            await tick(app.ratchet)
            found = (await app.http.get(f"/v1/experiments/{experiment_id}")).json()
            assert found["verdict"] == "rollback", found
            assert "worse on 'latency'" in found["reason"]

    asyncio.run(play())
