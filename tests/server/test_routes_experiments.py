"""The life of an experiment over HTTP: who may do what to which state, and what is told about it."""

from typing import Any

import httpx
import pytest

from server.definitions.applying import apply
from tests.application import DEFINITIONS, Application, application

pytestmark = pytest.mark.anyio

EXPERIMENTS = "/v1/experiments"


async def drafted(app: Application, **wanted: Any) -> dict[str, Any]:
    """A draft with the challenger `terse`."""
    made = await app.http.post("/v1/programs/triage/variants", json={"name": "terse", "instructions": "One word."})
    assert made.status_code in (200, 201), made.text
    body = {"program": "triage", "challengers": ["terse"], "split": {"base": 0.5, "terse": 0.5}, **wanted}
    answer = await app.http.post(EXPERIMENTS, json=body)
    assert answer.status_code == 201, answer.text
    experiment: dict[str, Any] = answer.json()
    return experiment


async def act(app: Application, experiment_id: str, action: str, tag: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if tag is None else {"If-Match": tag}
    path = f"{EXPERIMENTS}/{experiment_id}/{action}"
    return await app.http.post(path, json={"reason": "a test", **body}, headers=headers)


async def test_an_experiment_lives_from_draft_to_promotion_and_back(database_url: str) -> None:
    async with application(database_url) as app:
        draft = await drafted(app)
        experiment_id = draft["experiment_id"]
        assert draft["state"] == "draft"
        assert draft["arms"] == [
            {"variant": "base", "role": "champion", "split": 0.5},
            {"variant": "terse", "role": "challenger", "split": 0.5},
        ]
        assert draft["settings"]["outcome_window"] == 86_400
        assert draft["level"] is None
        running = (await act(app, experiment_id, "start")).raise_for_status().json()
        assert running["state"] == "running"
        assert running["level"] > 0
        assert (await app.http.get("/v1/programs/triage")).json()["experiment_id"] == experiment_id
        assert (await act(app, experiment_id, "pause")).json()["state"] == "paused"
        assert (await app.predict(unit="ann")).json()["experiment_id"] is None
        assert (await act(app, experiment_id, "resume")).json()["state"] == "running"
        assert (await app.predict(unit="ann")).json()["experiment_id"] == experiment_id
        promoted = (await act(app, experiment_id, "promote", variant="terse")).raise_for_status().json()
        assert promoted["verdict"] == "promote"
        assert (await app.http.get("/v1/programs/triage")).json()["champion"] == "terse"
        back = (await act(app, experiment_id, "rollback")).raise_for_status().json()
        assert (back["verdict"], back["rolled_back"]) == ("promote", True)
        assert (await app.http.get("/v1/programs/triage")).json()["champion"] == "base"
        decisions = (await app.http.get(f"{EXPERIMENTS}/{experiment_id}/decisions")).json()["items"]
        assert [(decision["verdict"], decision["by"]) for decision in decisions] == [
            ("rollback", "operator"),
            ("promote", "operator"),
        ]
        assert decisions[1]["evidence"]["computed_at"].endswith("Z")
        assert decisions[1]["split_before"] == {"base": 0.5, "terse": 0.5}


async def test_covariates_measured_after_the_assignment_are_refused_by_their_place(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        assert (await drafted(app, covariates=["kind", "size"]))["settings"]["covariates"] == ["kind", "size"]
        wanted = {"program": "triage", "challengers": ["terse"]}
        later = ["kind", "correct", "category", "latency", "cost"]
        refused = await app.http.post(EXPERIMENTS, json={**wanted, "covariates": later})
        assert refused.status_code == 400
        assert [fault["pointer"] for fault in refused.json()["errors"]] == [f"/covariates/{n}" for n in (1, 2, 3, 4)]
        assert "'correct' is measured after the unit was assigned" in refused.text
        twice = await app.http.post(EXPERIMENTS, json={**wanted, "covariates": ["kind", "kind"]})
        assert twice.status_code == 400
        assert "at most 5 keys of the predictions' metadata" in twice.text


async def test_cheaper_is_refused_where_an_arm_has_no_known_price(sqlite_url: str) -> None:
    wanted = {"program": "triage", "challengers": ["free"], "goal": "latency", "objective": "as_good_and_cheaper"}
    async with application(sqlite_url) as app:
        without = await app.http.post(EXPERIMENTS, json={**wanted, "challengers": []})
        assert "needs a `margin` on 'latency'" in without.text
        guarded = DEFINITIONS.replace("{kind: latency}", "{kind: latency, margin: 10%}")
        await apply(app.ratchet, guarded, "ratchet.yaml", actor=None)
        free = {"name": "free", "lm": "sim/unpriced"}
        (await app.http.post("/v1/programs/triage/variants", json=free)).raise_for_status()
        refused = await app.http.post(EXPERIMENTS, json=wanted)
        assert refused.status_code == 400
        assert refused.json()["errors"] == [
            {
                "pointer": "/objective",
                "message": "as_good_and_cheaper needs the price of every arm's LM; that of 'free' is unknown",
            }
        ]


async def test_a_cost_guardrail_needs_every_arms_price_and_takes_the_definitions_for_its_own_model(
    sqlite_url: str,
) -> None:
    priced = "price: {input: 1, output: 2}"
    guarded = DEFINITIONS + "      cost: {kind: cost, role: guardrail, margin: 10%}\n"
    async with application(sqlite_url, definitions=DEFINITIONS.replace(f", {priced}", "")) as app:
        for made in ({"name": "terse", "instructions": "One word."}, {"name": "other", "lm": "sim/unpriced"}):
            (await app.http.post("/v1/programs/triage/variants", json=made)).raise_for_status()
        await apply(app.ratchet, guarded, "ratchet.yaml", actor=None)
        refused = await app.http.post(EXPERIMENTS, json={"program": "triage", "challengers": ["terse", "other"]})
        (fault,) = refused.json()["errors"]
        assert fault["pointer"] == "/guardrails"
        assert "that of 'other' is unknown" in fault["message"]
        taken = await app.http.post(EXPERIMENTS, json={"program": "triage", "challengers": ["terse"]})
        assert taken.status_code == 201, taken.text


async def test_an_act_that_the_state_does_not_allow_is_a_conflict(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        experiment_id = (await drafted(app))["experiment_id"]
        for action in ("pause", "resume", "rollback"):
            answer = await act(app, experiment_id, action)
            assert answer.status_code == 409, action
            assert action in answer.json()["detail"]
        other = await drafted(app)
        (await act(app, experiment_id, "start")).raise_for_status()
        assert (await act(app, other["experiment_id"], "start")).status_code == 409


async def test_an_act_on_a_stale_version_is_refused_and_changes_nothing(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        experiment_id = (await drafted(app))["experiment_id"]
        path = f"{EXPERIMENTS}/{experiment_id}"
        first = (await app.http.get(path)).headers["etag"]
        started = await act(app, experiment_id, "start", tag=first)
        assert started.status_code == 200, started.text
        assert started.headers["etag"] != first
        assert (await act(app, experiment_id, "stop", tag=first)).status_code == 412
        split = {"split": {"base": 0.8, "terse": 0.2}}
        assert (await app.http.patch(path, json=split, headers={"If-Match": first})).status_code == 412
        assert (await app.http.patch(path, json=split, headers={"If-Match": "first"})).status_code == 400
        assert (await app.http.get(path)).json() == started.json()
        assert (await act(app, experiment_id, "stop", tag="*")).json()["verdict"] == "stopped"


async def test_a_new_split_is_a_new_epoch_and_turns_the_ramp_off(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        experiment_id = (await drafted(app))["experiment_id"]
        before = (await act(app, experiment_id, "start")).json()
        changed = await app.http.patch(f"{EXPERIMENTS}/{experiment_id}", json={"split": {"base": 0.8, "terse": 0.2}})
        assert changed.status_code == 200, changed.text
        assert changed.json()["epoch"] == before["epoch"] + 1
        assert changed.json()["settings"]["ramp"] == []
        assert [arm["split"] for arm in changed.json()["arms"]] == [0.8, 0.2]


WRONG_EXPERIMENTS: list[tuple[dict[str, Any], str]] = [
    ({"program": "triag"}, "/program"),
    ({"challengers": ["ters"]}, "/challengers/0"),
    ({"challengers": ["base"]}, "/challengers/0"),
    ({"challengers": []}, "/challengers"),
    ({"challengers": "terse"}, "/challengers"),
    ({"goal": "corect"}, "/goal"),
    ({"guardrails": ["latncy"]}, "/guardrails/0"),
    ({"split": {"base": 0.5, "terse": 0.6}}, "/split"),
    ({"split": {"base": 1.5, "terse": -0.5}}, "/split"),
    ({"split": {"base": 0, "terse": 0}}, "/split"),
    ({"split": {"base": 0.5, "other": 0.5}}, "/split"),
    ({"min_effect": 0}, "/min_effect"),
    ({"max_units": 2**63}, "/max_units"),
    ({"outcome_window": "soon"}, "/outcome_window"),
    ({"randomise": "unit"}, "/randomise"),
    ({"aa": True}, "/challengers"),
]


async def test_a_wrong_experiment_is_refused_at_its_field(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        await drafted(app)
        for change, pointer in WRONG_EXPERIMENTS:
            answer = await app.http.post(EXPERIMENTS, json={"program": "triage", "challengers": ["terse"], **change})
            assert answer.status_code == 400, answer.text
            assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer], answer.text
        assert len((await app.http.get(EXPERIMENTS)).json()["items"]) == 1


async def test_an_unknown_experiment_is_not_found(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        for path in ("", "/report", "/series", "/decisions"):
            answer = await app.http.get(f"{EXPERIMENTS}/01a1f7c1-1cca-7150-a90c-118e4ec6ae49{path}")
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"


async def test_experiments_are_listed_newest_first_by_program_and_state(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        ids = [(await drafted(app))["experiment_id"] for _ in range(5)]
        (await act(app, ids[0], "start")).raise_for_status()
        listed: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            told = (await app.http.get(EXPERIMENTS, params={"limit": 2, **cursor})).raise_for_status().json()
            listed += [item["experiment_id"] for item in told["items"]]
            if told["next_cursor"] is None:
                break
            cursor = {"cursor": told["next_cursor"]}
        assert listed == ids[::-1]
        running = (await app.http.get(EXPERIMENTS, params={"program": "triage", "state": "running"})).json()["items"]
        assert [item["experiment_id"] for item in running] == [ids[0]]
        wrong = await app.http.get(EXPERIMENTS, params={"state": "runing"})
        assert wrong.json()["errors"][0]["pointer"] == "/query/state"


async def test_a_report_holds_numbers_or_nulls_from_the_first_moment(database_url: str) -> None:
    async with application(database_url) as app:
        experiment_id = (await drafted(app))["experiment_id"]
        (await act(app, experiment_id, "start")).raise_for_status()
        for unit in range(4):
            made = (await app.predict(unit=f"u{unit}")).json()
            await app.report({"prediction_id": made["prediction_id"], "label": {"category": "bug"}})
        report = (await app.http.get(f"{EXPERIMENTS}/{experiment_id}/report")).raise_for_status().json()
        series = (await app.http.get(f"{EXPERIMENTS}/{experiment_id}/series")).raise_for_status().json()
    assert sum(arm["assigned"] for arm in report["arms"]) == 4
    assert report["verdict"] is None
    assert report["recommended_action"] == "wait"
    assert report["srm"]["violated"] is False
    assert report["comparisons"][0]["interval"]["level"] > 0.9
    assert report["computed_at"].endswith("Z")
    assert series == {"points": []}


async def test_automation_is_frozen_and_unfrozen_with_a_reason(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        assert (await app.http.post("/v1/freeze", json={})).json()["errors"][0]["pointer"] == "/reason"
        frozen = (await app.http.post("/v1/freeze", json={"reason": "a holiday"})).raise_for_status().json()
        assert frozen["frozen"]["reason"] == "a holiday"
        assert (await app.http.get("/v1/status")).json()["frozen"] == frozen["frozen"]
        assert (await app.http.post("/v1/unfreeze", json={"reason": "back"})).json()["frozen"] is None
        (program,) = (await app.http.get("/v1/status")).json()["programs"]
        standing = {
            "name": "triage",
            "champion": "base",
            "experiment_id": None,
            "split": {"base": 1.0},
            "problem": None,
        }
        assert standing.items() <= program.items()


async def test_a_plan_says_what_an_experiment_takes_before_there_is_a_challenger(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        body = {"program": "triage", "min_effect": 0.1, "units_per_day": 5000, "baseline": {"correct": 0.7}}
        answer = await app.http.post(f"{EXPERIMENTS}/plan", json=body)
        assert answer.status_code == 200, answer.text
        plan = answer.json()
        assert plan["challengers"] == ["base-aa"]
        assert plan["baseline"]["correct"] == 0.7
        assert [scenario["effect"] for scenario in plan["scenarios"]] == [-0.1, 0.0, 0.1, 0.2]
        assert plan["expected_units"] == plan["scenarios"][2]["units"]
        assert sum(plan["chances"].values()) == pytest.approx(1)
        assert plan["false_promotion"] < 0.1
        assert (await app.http.post(f"{EXPERIMENTS}/plan", json=body)).json() == plan
        assert (await app.http.get(EXPERIMENTS)).json()["items"] == []


async def test_a_plan_without_a_baseline_takes_the_champions_own_outcomes(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        body = {"program": "triage", "min_effect": 0.1, "units_per_day": 5000}
        refused = await app.http.post(f"{EXPERIMENTS}/plan", json=body)
        assert refused.status_code == 400
        assert [fault["pointer"] for fault in refused.json()["errors"]] == ["/baseline/correct"]
        for label in ("bug", "bug", "bug", "billing"):
            made = (await app.predict()).json()
            await app.report({"prediction_id": made["prediction_id"], "label": {"category": label}})
        plan = (await app.http.post(f"{EXPERIMENTS}/plan", json=body)).raise_for_status().json()
        assert plan["baseline"]["correct"] == 0.75


async def test_a_plan_knows_what_covariates_explain_and_shares_that_follow_the_evidence(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        asked: dict[str, Any] = {"program": "triage", "units_per_day": 5000, "baseline": {"correct": 0.7}}
        asked |= {"min_effect": 0.1, "min_duration": 0, "split": {"base": 0.9, "base-aa": 0.1}}
        changes: list[dict[str, Any]] = [{}, {"allocation": "adaptive"}, {"covariates": ["kind"], "explained": 0.5}]
        found = [(await app.http.post(f"{EXPERIMENTS}/plan", json={**asked, **change})).json() for change in changes]
        fixed, adaptive, explained = (plan["expected_units"]["mean"] for plan in found)
        assert adaptive < fixed, "a winner gets its traffic sooner, and more even shares tell more"
        assert explained < 0.75 * fixed
        assert [plan["explained"] for plan in found] == [0, 0, 0.5]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"units_per_day": 0}, "/units_per_day"),
        ({"units_per_day": "many"}, "/units_per_day"),
        ({"baseline": {"corect": 0.7}}, "/baseline/corect"),
        ({"baseline": {"correct": 1.7}}, "/baseline/correct"),
        ({"challengers": ["nobody"]}, "/challengers/0"),
        ({"program": "triag"}, "/program"),
        ({"unit_per_day": 3}, "/unit_per_day"),
        ({"agreement": 0.9}, "/agreement"),
        ({"pairs": True, "agreement": 1.1}, "/agreement"),
        ({"pairs": True, "explained": 0.3}, "/explained"),
        ({"explained": 0.3}, "/explained"),
        ({"covariates": ["kind"], "explained": 1}, "/explained"),
    ],
)
async def test_a_wrong_plan_is_refused_at_its_field(change: dict[str, Any], pointer: str, sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        body = {"program": "triage", "units_per_day": 100, "baseline": {"correct": 0.7}, **change}
        answer = await app.http.post(f"{EXPERIMENTS}/plan", json=body)
        assert answer.status_code == 400, answer.text
        assert pointer in [fault["pointer"] for fault in answer.json()["errors"]], answer.text
