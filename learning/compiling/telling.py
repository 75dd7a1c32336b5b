"""What a run tells while it goes on: events as JSON lines, each told once however often the run is taken up again."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from learning.compile_runs import Event, Progress
from learning.engines.spending import Spending


class Telling:
    """Appends to `events.jsonl`, and holds how far the run is.

    A run that is taken up again does everything over; what an earlier process told of it is not told again. A last line
    that was torn by a kill is cut off.
    """

    def __init__(self, path: Path, spending: Spending, progress: Progress, clock: Callable[[], int]) -> None:
        self.progress = progress
        self._spending = spending
        self._clock = clock
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)
        self._told = {_gist(msgspec.json.decode(line, type=Event)) for line in content[:whole].splitlines()}

    def tell(self, kind: Any, said: str, *, predictor: str | None = None, text: str | None = None) -> None:
        """One event, as of now. A file that cannot be written stops the run."""
        event = Event(
            kind=kind,
            at=self._clock(),
            said=said,
            progress=self.progress,
            spent=self._spending.spent,
            predictor=predictor,
            text=text,
        )
        if _gist(event) in self._told:
            return
        try:
            _write(self._file, msgspec.json.encode(event) + b"\n")
        except OSError as error:
            self._spending.stop("broken", f"events cannot be written: {error}")

    def now(self, **changes: Any) -> None:
        """The run is further now; see `Progress`. May be called from any thread."""
        with self._lock:
            self.progress = msgspec.structs.replace(self.progress, **changes)


def _gist(event: Event) -> tuple[object, ...]:
    """What makes two events the same one."""
    return event.kind, event.said, event.predictor, event.text, event.progress.iteration


def _write(file: int, written: bytes) -> None:
    while written:
        written = written[os.write(file, written) :]
