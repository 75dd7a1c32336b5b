"""The process in which a compile run happens: `python -m learning.compiling.child DIRECTORY`.

The directory holds `job.json` (a `compiling.Job`) when it starts, and is its whole world:

| file           | written by | what it is                                                                       |
|----------------|------------|----------------------------------------------------------------------------------|
| `job.json`     | parent     | the job                                                                          |
| `cancel`       | parent     | asks for a clean end, as does `gepa.stop`; the parent deletes both before a start |
| `calls.jsonl`  | child      | the ledger: every call paid, and the run's only checkpoint                       |
| `events.jsonl` | child      | `compiling.Event`s; only lines that end are to be read                           |
| `result.json`  | child      | a `compiling.Result`, written whole or not at all                                |

Exit code 0: `result.json` is there. Anything else: there is none, the last line on standard error says why, and the
same directory can be started again; calls in its ledger are not paid again. SIGTERM, and the end of standard input,
which is how a dead parent shows itself, end the process at once in that way: standard input must be a pipe that the
parent holds open.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

JOB, RESULT, CANCELLING = "job.json", "result.json", ("cancel", "gepa.stop")
_NICE = 15
_LOOK = 0.1
"""Seconds between two looks for a cancelling file."""
_PATIENCE = 5.0
"""Seconds to wait for the end of another child in the same directory."""
_CREDENTIALS = (
    "DATABASE_URL", "PGPASSFILE", "PGPASSWORD", "PGSERVICE", "PGSERVICEFILE", "RATCHET_API_KEY", "RATCHET_DATABASE_URL",
)  # fmt: skip
"""Variables that lead to a database or to the server; a child has no business there."""


def main(arguments: list[str]) -> int:
    """Runs the job of the directory that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m learning.compiling.child DIRECTORY\n")
        return 2
    folder = Path(arguments[0]).resolve()
    prepare(folder)
    if not _alone(folder):
        sys.stderr.write(f"another process is at work in {folder}\n")
        return 1
    # Only now: DSPy looks at the environment as it is imported.
    from experiments.errors import RatchetError
    from learning.compile_runs import Job
    from learning.compiling.compilation import Compilation
    from learning.lms import configure_process

    configure_process()
    try:
        job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
        compilation = Compilation(job, folder, _now)
        _watch(lambda: _cancelled(folder, lambda: compilation.spending.stop("cancelled", "cancelled on request")))
        result = compilation.run()
        _replace(folder / RESULT, msgspec.json.encode(result))
    except (RatchetError, OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def prepare(folder: Path) -> None:
    """Makes this process fit to stand beside a server: quiet, humble, without credentials, mortal."""
    for name in _CREDENTIALS:
        os.environ.pop(name, None)
    os.environ |= {"DSPY_CACHEDIR": str(folder / "cache"), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "TQDM_DISABLE": "1"}
    os.nice(max(0, _NICE - os.nice(0)))
    os.chdir(folder)
    signal.signal(signal.SIGTERM, lambda *_: _leave(128 + signal.SIGTERM, "ended by SIGTERM"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the parent too, which knows what to do
    _watch(_orphaned)


def _alone(folder: Path) -> bool:
    """Whether no other child works here, having waited for one that is about to end; held until this one's end.

    Two in one directory would both pay, as when the server of the first is suspended and another takes over.
    """
    handle, until = os.open(folder, os.O_RDONLY), time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK)
        else:
            return True


def _orphaned() -> None:
    """Waits for the end of standard input."""
    while os.read(0, 4096):
        pass
    _leave(1, "the parent is gone")


def _cancelled(folder: Path, stop: Callable[[], None]) -> None:
    """Waits for a cancelling file."""
    while not any((folder / name).exists() for name in CANCELLING):
        time.sleep(_LOOK)
    stop()


def _leave(code: int, reason: str) -> None:
    """At once, whatever threads are doing: what counts is in the ledger already."""
    os.write(2, f"{reason}\n".encode())
    os._exit(code)


def _watch(wait: Callable[[], None]) -> None:
    threading.Thread(target=wait, daemon=True).start()


def _replace(path: Path, content: bytes) -> None:
    """Puts a file where nobody can see half of it, not even after a power cut."""
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _now() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Threads of the optimizer may still wait for an answer that no longer matters.
    os._exit(code)
