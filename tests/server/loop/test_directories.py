"""The run directory: what another attempt finds in it, and what it may not go on from."""

import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from experiments.metrics import Metric
from learning.compile_runs import Budget, Dataset, Event, Job, Progress, Result
from learning.definitions import LmSettings, ProgramDefinition
from learning.programs import base_variant
from server.loop.directories import Directory, directories, sweep


@pytest.fixture(scope="module")
def job() -> Job:
    definition = ProgramDefinition(signature="ticket -> category", lm=LmSettings(model="sim/triage"))
    values: dict[str, Any] = {"train": (), "val": (), "holdout": (), "digest": "d"}
    return Job(
        compile_id="run",
        program="triage",
        definition=definition,
        champion=base_variant("triage", definition, 1),
        goal=Metric(kind="exact_match", field="category"),
        dataset=Dataset(**values),
        optimizer="gepa",
        component=None,
        reflection_lm=None,
        budget=Budget(cost=None, metric_calls=10, time=10),
        seed=1,
    )


def told(directory: Directory, *lines: int | str) -> None:
    """The child says these things."""
    with (directory.path / "events.jsonl").open("ab") as file:
        for line in lines:
            file.write(line.encode() if isinstance(line, str) else msgspec.json.encode(_event(line)) + b"\n")


def _event(at: int) -> Event:
    return Event(kind="progress", at=at, said="", progress=Progress(), spent=at)


def numbers(directory: Directory) -> list[tuple[int, int]]:
    """Number and time of what is new."""
    return [(numbered.number, numbered.event.at) for numbered in directory.events()]


def test_events_are_numbered_by_line_and_a_line_without_its_end_waits(tmp_path: Path, job: Job) -> None:
    directory = Directory(tmp_path, "run")
    directory.prepare(job, stored=0)
    assert numbers(directory) == []
    told(directory, 10, 20, "no event\n", 40, '{"kind": "prog')
    assert numbers(directory) == [(1, 10), (2, 20), (4, 40)]
    assert numbers(directory) == []
    told(directory, "ress\n", 60)
    assert numbers(directory) == [(6, 60)]


def test_another_attempt_goes_on_with_what_is_not_known_yet(tmp_path: Path, job: Job) -> None:
    first = Directory(tmp_path, "run")
    first.prepare(job, stored=5)
    told(first, 10, 20, 30)
    again = Directory(tmp_path, "run")
    assert again.resumable(stored=6) == job
    assert numbers(again) == [(7, 20), (8, 30)]


def test_a_directory_that_another_machine_has_overtaken_is_begun_anew(tmp_path: Path, job: Job) -> None:
    directory = Directory(tmp_path, "run")
    directory.prepare(job, stored=0)
    told(directory, 10, 20)
    assert Directory(tmp_path, "run").resumable(stored=2) == job
    assert Directory(tmp_path, "run").resumable(stored=9) is None
    directory.prepare(job, stored=9)
    told(directory, 30)
    assert numbers(Directory(tmp_path, "run")) == [(1, 30)]
    again = Directory(tmp_path, "run")
    assert again.resumable(stored=9) == job
    assert numbers(again) == [(10, 30)]


def test_half_a_directory_is_none(tmp_path: Path, job: Job) -> None:
    directory = Directory(tmp_path, "run")
    assert directory.resumable(stored=0) is None
    directory.prepare(job, stored=0)
    (directory.path / "job.json").write_bytes(b'{"compile_id"')
    assert directory.resumable(stored=0) is None
    (directory.path / "result.json").write_bytes(b"{")
    assert directory.result() is None


def test_what_ended_one_child_does_not_end_the_next(tmp_path: Path, job: Job) -> None:
    directory = Directory(tmp_path, "run")
    directory.prepare(job, stored=0)
    result = Result(outcome="cancelled", reason="asked to")
    (directory.path / "result.json").write_bytes(msgspec.json.encode(result))
    directory.ask_to_end()
    assert directory.result() == result
    directory.clear()
    assert directory.result() is None
    assert not (directory.path / "cancel").exists()


def test_nobody_else_reads_what_people_wrote_and_it_goes_with_its_run(tmp_path: Path, job: Job) -> None:
    for name in ("ended", "open"):
        Directory(tmp_path, name).prepare(job, stored=0)
    assert stat.S_IMODE((directories(tmp_path) / "open").stat().st_mode) == 0o700
    sweep(tmp_path, {"ended"}.__contains__)
    assert [path.name for path in directories(tmp_path).iterdir()] == ["open"]
    Directory(tmp_path, "open").remove()
    assert list(directories(tmp_path).iterdir()) == []


def test_the_last_words_are_the_last_line_on_standard_error(tmp_path: Path, job: Job) -> None:
    directory = Directory(tmp_path, "run")
    directory.prepare(job, stored=0)
    assert directory.last_words() == ""
    (directory.path / "stderr.txt").write_text("a warning\nOSError: no space left on device\n\n")
    assert directory.last_words() == "OSError: no space left on device"
