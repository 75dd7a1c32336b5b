"""One server at a time on an SQLite file: a lock that dies with its holder and names him while he lives."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import IO

import msgspec

from experiments.errors import Conflict

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no fcntl
    fcntl = None


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock: process id, host, and since when (µs)."""

    pid: int
    host: str
    since: int


class Lock:
    """An exclusive lock beside `path`, held from creation to `release`.

    The operating system drops it when the process dies, however it dies; what the file says is only for people.
    Raises: Conflict naming the holder.
    """

    def __init__(self, path: Path, since: int) -> None:
        self._file = Path(f"{path}.lock").open("a+b")  # noqa: SIM115 -- open for as long as it is held
        try:
            _lock(self._file)
        except OSError:
            holder = _holder(self._file)
            self._file.close()
            raise Conflict(
                f"{path} is in use by {holder}; stop that server first, or give this one another file"
            ) from None
        self._file.truncate(0)
        self._file.write(msgspec.json.encode(Holder(os.getpid(), socket.gethostname(), since)))
        self._file.flush()

    def release(self) -> None:
        """Let the next server in."""
        self._file.truncate(0)
        self._file.close()


def _lock(file: IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt = __import__("msvcrt")  # exists on Windows only
        file.seek(0x7FFFFFFF)  # one byte far behind the text, which stays readable
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


def _holder(file: IO[bytes]) -> str:
    file.seek(0)
    try:
        holder = msgspec.json.decode(file.read(), type=Holder)
    except msgspec.MsgspecError:
        return "another server"
    since = datetime.fromtimestamp(holder.since // 1_000_000, UTC)
    return f"process {holder.pid} on {holder.host} since {since:%Y-%m-%d %H:%M:%S} UTC"
