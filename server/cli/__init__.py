"""The `ratchet` command: verbs for people and scripts.

Law of this package: a verb that changes something asks the running server to do it; only `up`, `serve`, `migrate` and
the first API key open the database themselves. Results go to standard output (one JSON document under `--json`), all
else to standard error; the exit code is 0 for done, 1 for refused, 2 for misused. DSPy and the web framework take a
second to import, so verbs import what they need when they run.
"""

from server.cli.main import main

__all__ = ["main"]
