"""What one process is told by its environment: where its data is, where it listens, how often it ticks, how it logs.

| variable | default | allowed |
|---|---|---|
| `RATCHET_DATA` | `./ratchet-data` | the directory of the embedded server's files |
| `RATCHET_DATABASE_URL` | `sqlite:///DATA/ratchet.db` | `sqlite:///PATH`, `postgresql+psycopg://USER@HOST/DB` |
| `RATCHET_CONFIG` | none | the definitions file to apply at start and to watch |
| `RATCHET_HOST`, `RATCHET_PORT` | `127.0.0.1`, `8000` | where HTTP is served; port 0 takes a free one |
| `RATCHET_TICK` | `10s` | the decision tick: seconds, or `500ms`, `10s`, `1m`; from 100ms to 1h |
| `RATCHET_LEASE` | `15s` | after how long another worker takes over from a leader that is gone; from 1s to 10m |
| `RATCHET_RETAIN` | none: for ever | how long inputs, outputs, labels, comments and compile events are kept; from 1h |
| `RATCHET_LOG_LEVEL` | `info` | debug, info, warning, error |
| `RATCHET_LOG_FORMAT` | `console` | console, json |

`RATCHET_URL` and `RATCHET_API_KEY` are read by the command line only; see `server/cli/client.py`. So is
`RATCHET_DEMO_PROMETHEUS`, by `ratchet demo`; see `server/demo/alerting.py`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from experiments.errors import Fault, Invalid, nearest
from experiments.quantities import SECOND, duration

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

SHORTEST_TICK = SECOND // 10
LONGEST_TICK = 3600 * SECOND
SHORTEST_LEASE = SECOND
LONGEST_LEASE = 600 * SECOND
SHORTEST_RETENTION = 3600 * SECOND


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process. Durations in µs; `database_url` may hold a password: show `database` instead.

    `embedded` is set by `ratchet up`: one process owns the data, serves and works. `worker` is set by `ratchet work`,
    which does not serve. `retain` is None when content is kept for ever.
    """

    data: str = "ratchet-data"
    database_url: str = "sqlite:///ratchet-data/ratchet.db"
    config: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    tick: int = 10 * SECOND
    lease: int = 15 * SECOND
    retain: int | None = None
    log_level: LogLevel = "info"
    log_format: LogFormat = "console"
    embedded: bool = False
    worker: bool = False

    @property
    def sqlite_path(self) -> Path | None:
        """The database file, or None on PostgreSQL."""
        prefix, _, path = self.database_url.partition("sqlite:///")
        return Path(path) if not prefix else None

    @property
    def database(self) -> str:
        """The database URL without its password, for people and logs."""
        return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", self.database_url)


def from_env(environ: Mapping[str, str]) -> Settings:
    """The settings that `RATCHET_*` variables ask for; an empty variable counts as absent.

    Raises: Invalid with one fault per wrong variable, saying what is allowed.
    """
    values: dict[str, Any] = {}
    faults = []
    for name, read in _READERS.items():
        written = environ.get(name, "").strip()
        # Kubernetes sets RATCHET_PORT=tcp://... for a service that is called ratchet; nobody meant that for us.
        if not written or (name == "RATCHET_PORT" and written.startswith("tcp://")):
            continue
        try:
            values[name.removeprefix("RATCHET_").lower()] = read(written)
        except ValueError as error:
            faults.append(Fault(name, str(error)))
    if faults:
        raise Invalid("; ".join(f"{fault.pointer}: {fault.message}" for fault in faults), faults=faults)
    values.setdefault("database_url", f"sqlite:///{Path(values.get('data', Settings().data)) / 'ratchet.db'}")
    return Settings(**values)


def unknown(environ: Mapping[str, str]) -> list[str]:
    """One sentence for each `RATCHET_*` variable that means nothing here: most likely a slip of the pen."""
    known = {*_READERS, "RATCHET_URL", "RATCHET_API_KEY", "RATCHET_DEMO_PROMETHEUS"}
    return [
        f"{name} is not a setting of Ratchet; {nearest(name, known)}"
        for name in sorted(environ)
        if name.startswith("RATCHET_") and name not in known
    ]


def _database_url(written: str) -> str:
    if re.fullmatch(r"sqlite:///.+|postgresql\+psycopg://.+", written):
        return written
    scheme = written.partition("://")[0]
    hint = "write postgresql+psycopg:// in its place; " if scheme in ("postgres", "postgresql") else ""
    raise ValueError(
        f"{scheme[:40]!r} is not a database it can use; {hint}allowed: sqlite:///PATH, postgresql+psycopg://USER:PASSWORD@HOST/NAME"
    )


def _port(written: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", written) and int(written) <= 65535:
        return int(written)
    raise ValueError(f"{written!r} is not a port; a whole number from 0 (any free one) to 65535")


def _between(shortest: int, longest: int, allowed: str) -> Callable[[str], int]:
    def read(written: str) -> int:
        try:
            micros = duration(float(written))
        except ValueError:
            micros = duration(written)
        if not shortest <= micros <= longest:
            raise ValueError(f"{written!r} is not {allowed}")
        return micros

    return read


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(written: str) -> str:
        if written.lower() in allowed:
            return written.lower()
        raise ValueError(f"{written!r} is unknown; {nearest(written, allowed)}")

    return read


_READERS: dict[str, Callable[[str], Any]] = {
    "RATCHET_DATA": str,
    "RATCHET_DATABASE_URL": _database_url,
    "RATCHET_CONFIG": str,
    "RATCHET_HOST": str,
    "RATCHET_PORT": _port,
    "RATCHET_TICK": _between(SHORTEST_TICK, LONGEST_TICK, "a tick; from 100ms to 1h"),
    "RATCHET_LEASE": _between(SHORTEST_LEASE, LONGEST_LEASE, "a lease; from 1s to 10m"),
    "RATCHET_RETAIN": _between(SHORTEST_RETENTION, 3660 * 86_400 * SECOND, "a retention; from 1h to ten years"),
    "RATCHET_LOG_LEVEL": _one_of("debug", "info", "warning", "error"),
    "RATCHET_LOG_FORMAT": _one_of("console", "json"),
}
