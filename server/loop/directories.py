"""The run directory: what a compile's child process is given, and what it leaves behind.

It holds inputs and labels of people, so nobody else may read it, and it is removed once its run has ended.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from learning.compile_runs import Event, Job, Result
from server.store.compiles import NumberedEvent

_LONGEST_LAST_WORDS = 500
"""Characters of what a child said last that are repeated in an error."""


def directories(data: Path) -> Path:
    """Where run directories are, each under the id of its run."""
    return data / "compiles"


def sweep(data: Path, ended: Callable[[str], bool]) -> None:
    """Remove the directories of runs that have ended, left behind when a server died."""
    for path in directories(data).glob("*"):
        if ended(path.name):
            shutil.rmtree(path, ignore_errors=True)


class Directory:
    """One run's directory. `events` reads what is new in it since it was last asked."""

    def __init__(self, data: Path, compile_id: str) -> None:
        self.path = directories(data) / compile_id
        self._first = 0
        self._stored = 0
        self._lines = 0
        self._offset = 0

    def resumable(self, stored: int) -> Job | None:
        """The job that was begun here, if no other machine has gone on with it: `stored` events of it are known.

        None when there is none, or when what is here is older than what is known.
        """
        self._stored = stored
        try:
            job = msgspec.json.decode((self.path / "job.json").read_bytes(), type=Job)
            self._first = int((self.path / "first").read_bytes())
        except (FileNotFoundError, ValueError, msgspec.MsgspecError):
            return None
        known = self._first + sum(1 for _ in self._complete_lines(0))
        return job if stored <= known else None

    def prepare(self, job: Job, stored: int) -> None:
        """Begin here from nothing; the events to come count from `stored` + 1. Raises: OSError."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(mode=0o700, parents=True)
        (self.path / "first").write_bytes(str(stored).encode())
        draft = self.path / "job.draft"
        draft.write_bytes(msgspec.json.encode(job))
        draft.rename(self.path / "job.json")
        self._first = stored

    def result(self) -> Result | None:
        """How the child ended, if it came to an end."""
        try:
            return msgspec.json.decode((self.path / "result.json").read_bytes(), type=Result)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def clear(self) -> None:
        """Take away what told an earlier child to end, and that it did."""
        for name in ("cancel", "gepa.stop", "result.json"):
            (self.path / name).unlink(missing_ok=True)

    def ask_to_end(self) -> None:
        """Tell the child to end with what it has."""
        (self.path / "cancel").touch()

    def events(self) -> list[NumberedEvent]:
        """What happened since this was last asked, and is not known yet.

        A line that cannot be read is passed over, and keeps its number.
        """
        found = []
        for line in self._complete_lines(self._offset):
            self._offset += len(line)
            self._lines += 1
            if (number := self._first + self._lines) <= self._stored:
                continue
            try:
                found.append(NumberedEvent(number, msgspec.json.decode(line, type=Event)))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
        return found

    def _complete_lines(self, offset: int) -> Iterator[bytes]:
        try:
            with (self.path / "events.jsonl").open("rb") as file:
                file.seek(offset)
                yield from (line for line in file if line.endswith(b"\n"))
        except FileNotFoundError:
            return

    def last_words(self) -> str:
        """The last line that the child wrote to standard error; a reason to end, most likely."""
        try:
            with (self.path / "stderr.txt").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8 * _LONGEST_LAST_WORDS))
                lines = file.read().decode("utf-8", "replace").replace("\0", "").split("\n")
        except FileNotFoundError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_LONGEST_LAST_WORDS]

    def remove(self) -> None:
        """Remove everything: the run has ended."""
        shutil.rmtree(self.path, ignore_errors=True)
