"""The compile child as a real process: it survives kills without paying twice, and leaves when it should."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.learning.jobs import Child, calls, events, job, serving, sim

THREADS = 8


def slow(**changes: Any) -> Any:
    """A run of some seconds."""
    return job({"lm": sim(latency="20ms")}, **changes)


def test_a_killed_run_finds_the_same_candidate_and_pays_again_for_calls_in_flight_at_most(tmp_path: Path) -> None:
    """The provider counts: every request is one that would have been billed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    with serving(latency=0.003) as provider:
        given = job({"lm": provider.lm}, {"metric_calls": 120})
        with Child(whole, given) as undisturbed:
            assert undisturbed.wait() == 0, undisturbed.complaint()
        least, provider.served = provider.served, 0
        for after in (40, 100):
            with Child(killed, given) as child:
                child.wait_for_calls(after)
                child.process.kill()
            assert not (killed / "result.json").exists()
        with Child(killed, given) as resumed:
            assert resumed.wait() == 0, resumed.complaint()
        assert least <= provider.served <= least + 2 * THREADS
    first, last = undisturbed.result(), resumed.result()
    assert last.state == first.state
    assert [each.candidate for each in last.holdout] == [each.candidate for each in first.holdout]
    assert last.metric_calls == first.metric_calls
    assert len(calls(killed)) == len(calls(whole)) == least
    told = [(event.kind, event.said, event.progress) for event in events(killed) if event.kind != "started"]
    assert told == [(event.kind, event.said, event.progress) for event in events(whole)[1:]]


@pytest.mark.parametrize("file", ["cancel", "gepa.stop"])
def test_a_cancelled_run_ends_soon_and_says_so(tmp_path: Path, file: str) -> None:
    with Child(tmp_path, slow()) as child:
        child.wait_for_calls(50)
        (tmp_path / file).touch()
        assert child.wait() == 0, child.complaint()
        result = child.result()
    assert (result.outcome, result.state) == ("cancelled", None)
    assert events(tmp_path)[-1].said == "cancelled: cancelled on request"
    assert result.student_calls < 150


@pytest.mark.parametrize("how", ["terminated", "orphaned"])
def test_a_child_leaves_at_once_without_a_result_and_can_be_started_again(tmp_path: Path, how: str) -> None:
    with Child(tmp_path, slow()) as child:
        child.wait_for_calls(50)
        if how == "terminated":
            child.process.terminate()
        else:
            child.hang_up()
        assert child.wait() == (143 if how == "terminated" else 1)
        assert child.complaint() == ("ended by SIGTERM" if how == "terminated" else "the parent is gone")
    assert not (tmp_path / "result.json").exists()
    paid = len(calls(tmp_path))
    with Child(tmp_path, slow(budget={"time": 1})) as again:
        assert again.wait() == 0
    assert len(calls(tmp_path)) == paid


def test_of_two_children_in_one_directory_one_works(tmp_path: Path) -> None:
    with Child(tmp_path, slow()) as one:
        one.wait_for_calls(20)
        one.process.send_signal(signal.SIGSTOP)
        with Child(tmp_path) as other:
            assert other.wait() == 1
            assert other.complaint().startswith("another process is at work in")
        one.process.send_signal(signal.SIGCONT)
        one.hang_up()
        with Child(tmp_path) as next_one:
            (tmp_path / "cancel").touch()
            assert next_one.wait() == 0, "it waited for the one that was leaving"


def test_a_full_disk_ends_the_run_with_a_clear_reason_and_no_result(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    with Child(tmp_path, job(), preexec_fn=limit) as child:
        assert child.wait() == 1
        assert "the ledger cannot be written" in child.complaint()
    assert not (tmp_path / "result.json").exists()
    with Child(tmp_path) as again:
        assert again.wait() == 0, "what was torn is cut off, and the run goes on"
        assert again.result().outcome == "candidate"


def test_a_child_is_humble_and_keeps_its_files_to_itself(tmp_path: Path) -> None:
    with Child(tmp_path, slow()) as child:
        child.wait_for_calls(1)
        assert os.getpriority(os.PRIO_PROCESS, child.process.pid) == 15
        assert Path(f"/proc/{child.process.pid}/cwd").resolve() == tmp_path
        (tmp_path / "cancel").touch()
        assert child.wait() == 0
    assert (tmp_path / "stdout").stat().st_size == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"job.json", "cancel", "calls.jsonl", "events.jsonl", "result.json", "stdout", "stderr"}


def test_what_leads_to_a_database_is_gone_before_dspy_is_imported(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from learning.compiling.child import prepare;"
        " prepare(Path(sys.argv[1]));"
        "print('dspy' in sys.modules, os.environ.get('RATCHET_DATABASE_URL'), os.environ['OWN_KEY'],"
        " os.environ['DSPY_CACHEDIR'], os.environ['LITELLM_LOCAL_MODEL_COST_MAP'], flush=True); os._exit(0)"
    )
    environment = {**os.environ, "RATCHET_DATABASE_URL": "postgresql://secret@host/db", "OWN_KEY": "kept"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
    assert said.split() == ["False", "None", "kept", str(tmp_path / "cache"), "True"]


def test_a_job_that_cannot_be_read_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"compile_id": 3}')
    with Child(tmp_path) as child:
        assert child.wait() == 1
        assert "ValidationError" in child.complaint()
