"""The ledger of a compile run: what is in it is paid, whole, and found again."""

import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learning.engines.ledger import Entry, Failure, Ledger


def entry(key: str = "k", **changes: Any) -> Entry:
    return Entry(**{"role": "student", "key": key, "at": 100, "latency": 5, "cost": 7, "response": {}, **changes})


def test_the_nth_call_with_a_key_gets_the_nth_answer(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    first = Ledger(path, 0)
    assert first.next("k") is None
    for text in "ab":
        first.record(entry(response={"text": text}))
    first.record(entry(failure=Failure(kind="ServerError", message="down"), response=None))
    again = Ledger(path, 0)
    assert [
        (found.response, found.failure and found.failure.kind) for found in iter(lambda: again.next("k"), None)
    ] == [
        ({"text": "a"}, None),
        ({"text": "b"}, None),
        (None, "ServerError"),
    ]
    assert again.next("other") is None


def test_what_was_recorded_in_this_process_is_not_handed_out_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "calls.jsonl", 0)
    ledger.record(entry())
    assert ledger.next("k") is None


def test_spending_and_calls_are_sums_over_all_attempts(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    for attempt in range(3):
        ledger = Ledger(path, 1000 * attempt)
        ledger.record(entry(str(attempt), at=1000 * attempt + 300))
        ledger.record(entry(str(attempt), role="reflection", cost=None, at=1000 * attempt + 400))
    again = Ledger(path, 9000)
    assert (again.spent, again.calls) == (21, {"student": 3, "reflection": 3})
    assert again.elapsed == 3 * 400, "the time between attempts is not worked"


@pytest.mark.parametrize("torn", [1, 10, 40])
def test_a_torn_last_line_is_cut_off_and_written_over(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "calls.jsonl"
    ledger = Ledger(path, 0)
    for key in "abc":
        ledger.record(entry(key))
    os.truncate(path, path.stat().st_size - torn)
    again = Ledger(path, 0)
    assert [again.next(key) is not None for key in "abc"] == [True, True, False]
    again.record(entry("c"))
    assert Ledger(path, 0).calls["student"] == 3


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("{}\n")
    with pytest.raises(msgspec.ValidationError):
        Ledger(path, 0)


def test_many_threads_leave_whole_lines_that_one_fsync_may_speak_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = [], os.fsync

    def slowly(file: int) -> None:
        synced.append(file)
        threading.Event().wait(0.002)
        sync(file)

    monkeypatch.setattr(os, "fsync", slowly)
    ledger = Ledger(tmp_path / "calls.jsonl", 0)

    def work(name: int) -> None:
        for place in range(20):
            ledger.record(entry(f"{name}-{place}", response={"text": "x" * 5000}))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Ledger(tmp_path / "calls.jsonl", 0).calls["student"] == 160
    assert len(synced) < 120


def test_after_a_line_that_was_not_written_whole_nothing_follows_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "calls.jsonl", 0)
    os.close(ledger._file)
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            ledger.record(entry())
    assert ledger.spent == 0
