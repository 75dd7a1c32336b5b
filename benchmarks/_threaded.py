"""`ratchet up` as it is, which at a word also compiles on a thread of its own process: what the product does not do.

Run as `python -m benchmarks._threaded CONFIG`. Once it answers it prints its address. A line on standard input that
names a directory has the `job.json` in it compiled, until an empty line comes; either is answered by a line.
"""

import sys
import threading
import time
from pathlib import Path

import msgspec

from learning.compile_runs import Job
from learning.compiling.compilation import Compilation
from server.cli.main import ratchet


def obey() -> None:
    """Do as the lines say."""
    while folder := sys.stdin.readline().strip():
        job = msgspec.json.decode(Path(folder, "job.json").read_bytes(), type=Job)
        compilation = Compilation(job, Path(folder), lambda: time.time_ns() // 1000)
        thread = threading.Thread(target=compilation.run)
        thread.start()
        print("begun", flush=True)
        sys.stdin.readline()
        compilation.spending.stop("cancelled", "the benchmark has seen enough")
        thread.join()
        print("ended", flush=True)


if __name__ == "__main__":
    threading.Thread(target=obey, daemon=True).start()
    ratchet(["up", "--json", "--config", sys.argv[1]])
