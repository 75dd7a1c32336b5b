"""The child process that compiles: started apart from everything the server has, and ended for certain.

It gets a run directory, the keys of language models in its environment, and no way to the database; see
`learning/compiling/child.py`. It ends by itself when the server dies, because the standard input that they share then
closes.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import learning

_PATIENCE = 5.0
"""Seconds a child gets at each step on the way from being asked to being killed."""
_SECRET = ("RATCHET_", "PG", "POSTGRES", "DATABASE_URL")
"""What variables begin with that could lead to the database, or to this server."""
_ADDRESS = re.compile(r"(postgres(ql)?|sqlite)(\+\w+)?://")
"""What the address of a database begins with, whatever the variable is called."""


class Child:
    """A running child process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @classmethod
    def start(cls, directory: Path, environ: Mapping[str, str], keys: Collection[str] = ()) -> "Child":
        """Start one on a run directory; `keys` as in `environment`. Blocks for some milliseconds. Raises: OSError."""
        with (directory / "stdout.txt").open("ab") as out, (directory / "stderr.txt").open("ab") as errors:
            # Ours alone: its session is its own, so that a Ctrl-C meant for the server does not reach it.
            process = subprocess.Popen(  # noqa: S603 -- our own module, by a fixed command line
                [sys.executable, "-m", "learning.compiling.child", str(directory.absolute())],
                cwd=directory,
                env=environment(environ, keys),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, below zero for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self) -> None:
        """See to it that it does not run any more: close its standard input, then SIGTERM, then SIGKILL. Blocks."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._ended_within(_PATIENCE):
                return
            self.signal(number)
        self._process.wait()

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def environment(environ: Mapping[str, str], keys: Collection[str] = ()) -> dict[str, str]:
    """The variables that a child gets: the server's, less what leads to the database; `keys` by whatever name.

    Programs may name modules that stand beside their definitions file, which only this process was told of.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if (name in keys or not name.startswith(_SECRET)) and not _ADDRESS.match(value.lstrip())
    }
    here = str(Path(learning.__file__).parent.parent)
    return {**kept, "PYTHONPATH": os.pathsep.join([here, *(path for path in sys.path if path)])}
