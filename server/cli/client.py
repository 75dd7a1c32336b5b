"""The running server as verbs speak to it: over HTTP, with problems turned into refusals.

`RATCHET_URL` names it, `RATCHET_API_KEY` is the key; on one machine the server is found through its data directory.
"""

import ipaddress
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from server.cli.output import Refused
from server.presence import present
from server.settings import Settings, from_env

_PATIENCE = httpx.Timeout(60.0, connect=5.0)
_LOST = 60.0
"""Seconds without a server after which a stream is given up."""


class Server:
    """A connection to the running server; a context manager."""

    def __init__(self, url: str, key: str | None, *, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._with_key = key is not None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=_PATIENCE, transport=transport, trust_env=False
        )

    @classmethod
    def find(cls) -> Self:
        """The server that the environment names, or the one of this machine. Raises: Refused when there is none."""
        named, key = os.environ.get("RATCHET_URL"), os.environ.get("RATCHET_API_KEY") or None
        url = named or _url_here(from_env(os.environ))
        # A data directory may have come with somebody else's files: it must not say where a key is sent.
        if key and not named and not _here(url):
            raise Refused(
                f"RATCHET_API_KEY is not sent to {url}, which a file names; if it is right, set RATCHET_URL={url}"
            )
        return cls(url, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """What the server answers. Raises: Refused."""
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any) -> Any:
        """What the server answers. Raises: Refused."""
        return self._ask("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        """What the server answers. Raises: Refused."""
        return self._ask("PUT", path, json=body)

    def all(self, path: str, limit: int, **query: Any) -> list[Any]:
        """Up to `limit` items of a list, page by page, newest first. Raises: Refused."""
        items: list[Any] = []
        cursor = None
        while len(items) < limit:
            page = self.get(path, limit=min(limit - len(items), 500), cursor=cursor, **query)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return items

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """The server-sent events of a stream, by name, until the one called `end`. Raises: Refused.

        A connection that is lost is made again, and goes on after the last event seen.
        """
        after, until = "", time.monotonic() + _LOST
        while True:
            try:
                with self._http.stream("GET", path, headers={"Last-Event-ID": after} if after else None) as response:
                    if response.is_error:
                        response.read()
                        raise Refused(self._refusal(response))
                    for number, name, data in _messages(response.iter_lines()):
                        after, until = number or after, time.monotonic() + _LOST
                        yield name, data
                        if name == "end":
                            return
            except httpx.TransportError as error:
                if time.monotonic() > until:
                    raise Refused(f"no server answers at {self.url} any more ({error})") from None
            time.sleep(1.0)

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TimeoutException:
            raise Refused(
                f"{self.url} did not answer in time; look at its log, or at {self.url}/health/ready"
            ) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Refused(
                f"no server answers at {self.url} ({error}); start it with `ratchet up`, or set RATCHET_URL"
            ) from None
        if response.is_error:
            raise Refused(self._refusal(response))
        try:
            return response.json() if response.content else None
        except ValueError:
            raise Refused(f"what answers at {self.url} is no Ratchet server; set RATCHET_URL") from None

    def _refusal(self, response: httpx.Response) -> str:
        try:
            problem = response.json()
            detail, faults = problem["detail"], problem.get("errors") or []
        except (ValueError, KeyError, TypeError):
            return f"{self.url} answered {response.status_code}, and not as a Ratchet server does; set RATCHET_URL"
        lines = [detail]
        lines += [f"{fault['pointer']}: {fault['message']}" for fault in faults if fault["message"] not in detail]
        if response.status_code == httpx.codes.UNAUTHORIZED:
            lines.append("Set RATCHET_API_KEY" + (" to a key that is valid." if self._with_key else "."))
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            lines.append(f"The server's log has it under the request id {problem.get('request_id')}.")
        return "\n".join(lines)


def _messages(lines: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """Id, name and decoded data of each message."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            if "data" in fields:
                yield fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])
            fields = {}


def _here(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url_here(settings: Settings) -> str:
    if found := present(Path(settings.data)):
        return found.url
    raise Refused(
        f"no running server is known in {settings.data}; start one with `ratchet up`, "
        "or name it: RATCHET_URL=http://127.0.0.1:8000"
    )
