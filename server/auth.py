"""Who may do what: API keys, their scopes, and the guard in front of every route.

A key is 256 random bits; the database keeps only its SHA-256 (no slow hash is needed where nothing can be guessed). The
valid keys are held in memory and read anew every second, so that a request costs no database read and a revoked key
stops working everywhere within a second.

While no key is defined everything is allowed, the server listens on loopback addresses only, and it refuses what a
browser sends it on behalf of another site.
"""

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from experiments.errors import Conflict
from experiments.quantities import SECOND
from server.store import Store
from server.store.keys import Key, touch_keys, valid_keys
from server.wire.operations import Scope

Connection = ASGIConnection[Any, Any, Any, Any]

_PREFIX = "rk_"
_TOUCH_EVERY = 60 * SECOND


class Keyring:
    """The valid keys, in memory. `now` is the clock in µs."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._keys: dict[str, Key] = {}
        self._used: dict[str, int] = {}
        self._touched = now()

    @property
    def empty(self) -> bool:
        """Whether no key is defined, so that everything is allowed."""
        return not self._keys

    def find(self, secret: str) -> Key | None:
        """The valid key with this secret; notes that it was used."""
        key = self._keys.get(digest(secret))
        if key is not None:
            self._used[key.key_id] = self._now()
        return key

    async def refresh(self) -> None:
        """Read the valid keys anew; once a minute, write down when they were last used."""
        self._keys = await self._store.read(valid_keys)
        if self._used and self._now() - self._touched >= _TOUCH_EVERY:
            used, self._used, self._touched = self._used, {}, self._now()
            await self._store.write(touch_keys, used)


def new_secret() -> str:
    """A new key as its owner is shown it, once."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def grants(scopes: tuple[str, ...], wanted: Scope) -> bool:
    """Whether `scopes` include the wanted one: admin includes all, operate includes read.

    >>> grants(("operate",), "read"), grants(("read",), "operate")
    (True, False)
    """
    return wanted in scopes or "admin" in scopes or (wanted == "read" and "operate" in scopes)


def needs(scope: Scope) -> Callable[[Connection, BaseRouteHandler], Awaitable[None]]:
    """The guard of a route that takes a key with `scope`. A coroutine: Litestar would run a function in a thread."""

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        require(connection, scope)

    return guard


def require(connection: Connection, scope: Scope) -> None:
    """Let a request pass that may do what `scope` covers.

    Raises: NotAuthorizedException (401) without a valid key, PermissionDeniedException (403) when its scopes do not do.
    """
    keyring: Keyring = connection.app.state.ratchet.keys
    if keyring.empty:
        _refuse_foreign_pages(connection)
        return
    key = _presented(connection, keyring)
    if not grants(key.scopes, scope):
        raise PermissionDeniedException(
            detail=f"this needs the scope {scope!r}; key {key.name!r} has {', '.join(key.scopes)}. "
            "Somebody with an admin key can make one: ratchet keys create"
        )


def actor(connection: Connection) -> str | None:
    """Who is named in the records of what this request does: the key's name, None where no key is needed."""
    keyring: Keyring = connection.app.state.ratchet.keys
    return None if keyring.empty else _presented(connection, keyring).name


def check_bind(host: str, *, any_key: bool) -> None:
    """Refuse, at start, to offer an open server to a network. Raises: Conflict saying what to do."""
    if not any_key and not _loopback(host):
        raise Conflict(
            f"no API key is defined, so anyone who reaches {host or 'this machine'} could do anything. Either make one "
            "first, which needs no running server (ratchet keys create NAME --scope admin), or listen on 127.0.0.1"
        )


def _presented(connection: Connection, keyring: Keyring) -> Key:
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and (key := keyring.find(secret.strip())):
        return key
    problem = "this key is not valid, or no longer" if secret else "a key is needed"
    raise NotAuthorizedException(
        detail=f"{problem}; send it as 'Authorization: Bearer KEY'", headers={"WWW-Authenticate": "Bearer"}
    )


def _refuse_foreign_pages(connection: Connection) -> None:
    """Keep other pages in the operator's browser from acting on an open server: no page can forge these headers.

    The name called must be this machine's own: a foreign site may point its own name here (DNS rebinding), and the
    browser then takes its pages for ours.
    """
    if connection.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise PermissionDeniedException(detail="pages of other sites may not call a server that has no API keys")
    called = connection.headers.get("host", "")
    if not _loopback(re.sub(r":[0-9]*$", "", called)):
        raise PermissionDeniedException(
            detail=f"a server that has no API keys answers to names of its own machine only, not to {called[:100]!r}; "
            "call it as localhost, or make a key: ratchet keys create NAME --scope admin"
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
