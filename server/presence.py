"""How commands find the server of this machine: the small file it leaves in its data directory while it runs."""

import os
from pathlib import Path

import msgspec

_NAME = "server.json"


class Presence(msgspec.Struct, frozen=True):
    """Where a server listens, and its process id."""

    url: str
    pid: int


def announce(data: Path, url: str) -> Presence:
    """Say that this process serves at `url`."""
    made = Presence(url, os.getpid())
    data.mkdir(parents=True, exist_ok=True)
    draft = data / f"{_NAME}.{made.pid}"
    draft.write_bytes(msgspec.json.encode(made))
    draft.replace(data / _NAME)
    return made


def withdraw(data: Path) -> None:
    """Take back what this process said; another's word stays."""
    if (found := _read(data)) and found.pid == os.getpid():
        (data / _NAME).unlink(missing_ok=True)


def present(data: Path) -> Presence | None:
    """The server that said it serves this data, if its process still lives; a dead one's file is no answer."""
    found = _read(data)
    return found if found and _alive(found.pid) else None


def _read(data: Path) -> Presence | None:
    try:
        return msgspec.json.decode((data / _NAME).read_bytes(), type=Presence)
    except (OSError, msgspec.MsgspecError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
