"""One commit per row: what a durable write costs by itself, with the server's own statement and settings."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from experiments.facts import Outcome
from server.clock import new_id, now
from server.store.appending import Entry, append
from server.store.engine import Database
from server.store.store import migrate_at


class SingleCommits:
    """A database of its own on SQLite, written by nobody else; a context manager."""

    def __init__(self, path: Path) -> None:
        url = f"sqlite:///{path}"
        migrate_at(url)
        self._database = Database(url)
        self._connection = self._database.writer.connect()

    def commit(self) -> float:
        """Store one outcome; the seconds until it was on disk."""
        outcome = Outcome(
            prediction_id=new_id(),
            metric="correct",
            source="human",
            value=1.0,
            digest="0" * 32,
            late=False,
            received_at=now(),
        )
        began = time.perf_counter()
        append(self._connection, [Entry(outcomes=(outcome,))])
        self._connection.commit()
        return time.perf_counter() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()
        self._database.close()
