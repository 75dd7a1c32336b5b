"""A run's means: no call beyond them, whoever asks, and no patience with language models that are down."""

import threading
import time
from pathlib import Path
from typing import Any

from learning.engines.ledger import Entry, Ledger
from learning.engines.spending import Spending


def spending(folder: Path, **changes: Any) -> Spending:
    ledger = Ledger(folder / "calls.jsonl", 0)
    return Spending(ledger, **{"limit": 100, "time": 1000, "earlier": 0, "clock": lambda: 0, **changes})


def pay(means: Spending, most: int, cost: int) -> None:
    means.ledger.record(Entry(role="student", key="k", at=0, latency=0, cost=cost))
    means.settle(most)


def test_threads_that_reserve_the_worst_never_spend_more_than_there_is(tmp_path: Path) -> None:
    means = spending(tmp_path, limit=1000)
    admitted = []

    def work() -> None:
        while means.admit(90):
            admitted.append(means.spent)
            time.sleep(0.0005)
            pay(means, 90, 30)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 910 < means.spent <= 1000, "calls wait for others to end before the budget is called used up"
    assert means.stopped is not None
    assert means.stopped.kind == "budget"


def test_what_is_kept_back_can_be_spent_after_the_optimizer(tmp_path: Path) -> None:
    means = spending(tmp_path)
    means.kept_back = 60
    assert means.admit(40)
    pay(means, 40, 40)
    assert not means.admit(1)
    means.resume()
    assert means.admit(60)


def test_a_voided_run_is_not_resumed_and_a_later_budget_does_not_hide_why(tmp_path: Path) -> None:
    means = spending(tmp_path)
    means.stop("void", "down")
    means.stop("budget", "no money")
    means.resume()
    assert not means.admit(1)
    assert means.stopped is not None
    assert means.stopped.reason == "down"


def test_time_is_over_when_all_attempts_have_used_it(tmp_path: Path) -> None:
    now = [0]
    means = spending(tmp_path, clock=lambda: now[0])
    now[0] = 1000
    assert means.admit(1)
    now[0] = 1001
    assert not means.admit(1)


def test_failures_void_a_run_in_a_row_or_as_a_share_of_recent_calls(tmp_path: Path) -> None:
    for name, pattern, down in (
        ("row", [True] * 8, True),
        ("short row", [True] * 7, False),
        ("share", ([True] + [False] * 3) * 13, True),
        ("few", ([True] + [False] * 5) * 30, False),
    ):
        (tmp_path / name).mkdir()
        means = spending(tmp_path / name)
        for failed in pattern:
            means.heard("student", "timeout" if failed else None)
        assert (means.stopped is not None) is down, name
