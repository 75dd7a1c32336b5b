"""The ledger of a compile run: every call to a language model, on stable storage before its answer is used.

It is the run's only checkpoint. An optimizer's path follows from its seed and from what language models answer, so a
run that was killed begins again at the beginning, finds in the ledger what was answered before, pays for none of it
again, and comes to where it was, and to the same candidate. Only calls that were under way at the kill are paid twice.

Lines are JSON, never pickles. The n-th line with a key is the answer to the n-th call that asks the same thing, so that
samples drawn at a temperature stay independent. Failures are kept like answers: what a failure led to is part of the
path.
"""

import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import msgspec

Role = Literal["student", "reflection"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True, tag="attempt", tag_field="line"):
    """A process took up the run, at a moment in µs."""

    at: int


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an LM said instead of answering; `kind` is lm15's name for it (`AuthError`, `ServerError`, ...)."""

    kind: str
    message: str
    status: int | None = None
    retry_after: float | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="call", tag_field="line"):
    """One call to an LM, answered at `at` (µs) after `latency` µs.

    `key` digests model, endpoint, parameters and messages. `cost` is in picodollars, None without a price; what a
    provider did not count, or may have billed without an answer, is entered at the most it can have cost.
    """

    role: Role
    key: str
    at: int
    latency: int
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int | None = None
    response: dict[str, Any] | None = None
    failure: Failure | None = None


_LINE = msgspec.json.Decoder(Attempt | Entry)


class Ledger:
    """The file and what it says. Every method may be called from any thread.

    A last line that was torn by a kill is cut off. Raises: OSError, then and at every `record`, when the file cannot be
    written; msgspec.DecodeError when it is no ledger.
    """

    def __init__(self, path: Path, now: int) -> None:
        self.elapsed = 0
        self.spent = 0
        self.calls: dict[Role, int] = {"student": 0, "reflection": 0}
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        self._given: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._broken: OSError | None = None
        self._written = self._synced = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._read(path)
        self.known = sum(self.calls.values())
        self._append(Attempt(at=now))

    def next(self, key: str) -> Entry | None:
        """The answer to the next call with this key, where an earlier process has paid for it."""
        with self._lock:
            place = self._given[key]
            if place == len(self._entries[key]):
                return None
            self._given[key] += 1
            return self._entries[key][place]

    def record(self, entry: Entry) -> None:
        """Returns when the call is on stable storage. Raises: OSError, from then on for every call."""
        self._append(entry)
        with self._lock:
            self._enter(entry)
            self._given[entry.key] = len(self._entries[entry.key])

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.key].append(entry)
        self.calls[entry.role] += 1
        self.spent += entry.cost or 0

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)
        began = latest = 0
        for written in content[:whole].splitlines():
            line = _LINE.decode(written)
            if isinstance(line, Entry):
                self._enter(line)
            else:
                self.elapsed += latest - began
                began = line.at
            latest = line.at
        self.elapsed += latest - began

    def _append(self, line: Attempt | Entry) -> None:
        """Writes in turn, and lets one fsync speak for all lines that were written before it began."""
        written = msgspec.json.encode(line) + b"\n"
        with self._lock:
            place = self._written = self._written + 1
            self._write(written)
        with self._syncing:
            if self._synced < place:
                reached = self._written
                os.fsync(self._file)
                self._synced = reached

    def _write(self, written: bytes) -> None:
        """After a line that was not written whole, nothing may follow it."""
        if self._broken is not None:
            raise self._broken
        try:
            while written:
                written = written[os.write(self._file, written) :]
        except OSError as error:
            self._broken = error
            raise
