"""A pytest plugin: how long each suite took, beside the minutes it may take of `make test`'s twenty on two cores.

A suite is a directory of `tests/`. Seconds are added up over all processes. An overrun is shown and does not fail: the
machine may have been busy. Whoever sees it twice makes the suite faster.
"""

from collections import defaultdict

import pytest

MINUTES = {"e2e": 6, "experiments": 4, "faults": 6, "learning": 4, "server": 8, "store": 4}
"""Of processor time, two of which pass in a minute; any other suite has 2."""


class Suites:
    """Adds up what the reports say."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._tests: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = report.nodeid.split("/")
        suite = parts[1] if len(parts) > 2 else "tests"
        self._seconds[suite] += report.duration
        self._tests[suite].add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("suites")
        for suite, seconds in sorted(self._seconds.items()):
            limit = 60 * MINUTES.get(suite, 2)
            over = "   over its budget" if seconds > limit else ""
            terminalreporter.line(
                f"{suite:<16}{len(self._tests[suite]):>6} tests{seconds:>9.1f} s of {limit} s{over}",
                yellow=bool(over),
            )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # only the process that collects the reports
        config.pluginmanager.register(Suites())
