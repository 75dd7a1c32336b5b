"""Keys: who may do what, and what a server without any allows."""

import hashlib
from typing import Any

import pytest
import sqlalchemy as sa

from experiments.errors import Conflict
from server.auth import check_bind, grants
from server.store.tables import keys
from server.wire.operations import Scope
from tests.application import Application, application

pytestmark = pytest.mark.anyio


async def key(app: Application, *scopes: str, admin: str | None = None) -> dict[str, Any]:
    answer = await app.http.post("/v1/keys", json={"name": "-".join(scopes), "scopes": scopes}, headers=bearer(admin))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def bearer(secret: str | None) -> dict[str, str]:
    return {} if secret is None else {"Authorization": f"Bearer {secret}"}


async def test_without_keys_everything_is_allowed_and_with_the_first_one_nothing_without_it(database_url: str) -> None:
    async with application(database_url) as app:
        assert (await app.http.get("/v1/programs")).status_code == 200
        assert (await app.http.get("/v1/status")).json()["open"] is True
        secret = (await key(app, "admin"))["secret"]
        refused = await app.http.get("/v1/programs")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await app.http.get("/v1/programs", headers=bearer("rk_guess"))).status_code == 401
        assert (await app.http.get("/v1/programs", headers=bearer(secret))).status_code == 200
        assert (await app.http.get("/health/live")).status_code == 200


NEEDED: list[tuple[str, str, Scope]] = [
    ("POST", "/v1/programs/triage/predict", "predict"),
    ("POST", "/v1/outcomes", "outcomes"),
    ("GET", "/v1/programs", "read"),
    ("GET", "/v1/experiments", "read"),
    ("POST", "/v1/programs/triage/variants", "operate"),
    ("POST", "/v1/experiments", "operate"),
    ("POST", "/v1/freeze", "operate"),
    ("POST", "/v1/definitions/diff", "admin"),
    ("PUT", "/v1/definitions", "admin"),
    ("GET", "/v1/keys", "admin"),
]


async def test_a_key_opens_what_its_scopes_cover_and_is_told_the_missing_one(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        admin = (await key(app, "admin"))["secret"]
        for scope in ("predict", "outcomes", "read", "operate", "admin"):
            secret = (await key(app, scope, admin=admin))["secret"]
            for method, path, needed in NEEDED:
                answer = await app.http.request(method, path, headers=bearer(secret), content=b"")
                if grants((scope,), needed):
                    assert answer.status_code not in (401, 403), (scope, path, answer.text)
                else:
                    assert answer.status_code == 403, (scope, path, answer.text)
                    assert f"'{needed}'" in answer.json()["detail"]


async def test_pinning_a_variant_needs_operate(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        admin = (await key(app, "admin"))["secret"]
        app.http.headers.update(bearer((await key(app, "predict", admin=admin))["secret"]))
        assert (await app.predict()).status_code == 200
        assert (await app.predict(variant="base")).status_code == 403


async def test_the_database_holds_no_secret(database_url: str) -> None:
    async with application(database_url) as app:
        made = await key(app, "admin")
        rows = await app.ratchet.store.read(lambda conn: conn.execute(sa.select(keys)).all())
        listed = await app.http.get("/v1/keys", headers=bearer(made["secret"]))
    assert made["secret"] not in str(rows)
    assert rows[0].digest == hashlib.sha256(made["secret"].encode()).hexdigest()
    assert made["secret"] not in listed.text


async def test_a_revoked_key_is_refused_and_the_last_admin_key_stays(database_url: str) -> None:
    async with application(database_url) as app:
        first = await key(app, "admin")
        second = await key(app, "admin", admin=first["secret"])
        revoke = "/v1/keys/{}/revoke"
        done = await app.http.post(revoke.format(first["key"]["key_id"]), headers=bearer(second["secret"]))
        assert done.json()["revoked_at"] is not None
        assert (await app.http.get("/v1/programs", headers=bearer(first["secret"]))).status_code == 401
        kept = await app.http.post(revoke.format(second["key"]["key_id"]), headers=bearer(second["secret"]))
        assert kept.status_code == 409
        assert (await app.http.get("/v1/keys", headers=bearer(second["secret"]))).status_code == 200
        assert (await app.http.post(revoke.format("none"), headers=bearer(second["secret"]))).status_code == 404


async def test_the_first_key_must_be_an_admin_and_scopes_are_known(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        for body, pointer in (
            ({"name": "a", "scopes": ["read"]}, "/scopes"),
            ({"name": "a", "scopes": ["root"]}, "/scopes/0"),
            ({"name": "a", "scopes": []}, "/scopes"),
            ({"name": "", "scopes": ["admin"]}, "/name"),
        ):
            answer = await app.http.post("/v1/keys", json=body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["errors"][0]["pointer"] == pointer
        assert (await app.http.get("/v1/keys")).json()["items"] == []


async def test_acts_are_recorded_under_the_name_of_the_key(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        made = await app.http.post("/v1/keys", json={"name": "ann", "scopes": ["admin"]})
        app.http.headers.update(bearer(made.json()["secret"]))
        frozen = await app.http.post("/v1/freeze", json={"reason": "a holiday"})
        assert frozen.json()["frozen"]["actor"] == "ann"


async def test_pages_of_other_sites_may_not_call_an_open_server(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        for sender, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            answer = await app.http.get("/v1/programs", headers={"Sec-Fetch-Site": sender})
            assert answer.status_code == status, sender


async def test_an_open_server_answers_to_names_of_its_own_machine_only(sqlite_url: str) -> None:
    async with application(sqlite_url) as app:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"):
            assert (await app.http.get("/v1/programs", headers={"Host": host})).status_code == 200, host
        for host in ("evil.example:8000", "127.0.0.1.evil.example", "192.168.1.5", ""):
            answer = await app.http.get("/v1/programs", headers={"Host": host})
            assert answer.status_code == 403, host
        assert "ratchet keys create" in answer.json()["detail"]
        secret = (await key(app, "admin"))["secret"]
        elsewhere = {"Host": "ratchet.example", **bearer(secret)}
        assert (await app.http.get("/v1/programs", headers=elsewhere)).status_code == 200


def test_an_open_server_listens_on_loopback_only() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        check_bind(host, any_key=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):  # noqa: S104  # that it is refused is the point
        check_bind(host, any_key=True)
        with pytest.raises(Conflict, match="ratchet keys create"):
            check_bind(host, any_key=False)
