"""A process dies between two steps of the loop, whichever: who comes after it makes one run, one variant, one trial."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from experiments.quantities import SECOND
from monitoring.signals import Reading
from server.loop.compiling import carry_out, compiling
from server.loop.cycling import learn
from server.ratchet import Ratchet
from server.store import Store
from server.store.compiles import claim_run, open_run, release_runs, runs_page
from server.store.definitions import stored_variants
from server.store.drifts import AlarmRaised, raise_alarm
from server.store.experiments import experiments_in
from server.store.store import migrate_at
from tests.application import application
from tests.server.loop.feedback import PROGRAM, labelled

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

DEFINITIONS = PROGRAM.replace("    learning:\n", "    learning:\n      on: [drift]\n")


class Died(BaseException):
    """What ends everything in the process."""


class MortalStore:
    """The real store, until its process dies: at the write that `fatal` names, by number or function.

    It dies before the write, or once it is `committed` and nobody has been told. Nothing is read or written after.
    """

    def __init__(self, store: Store, fatal: int | str, *, committed: bool) -> None:
        self._store = store
        self._fatal = fatal
        self._committed = committed
        self._writes = 0
        self._dead = False

    async def read(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if self._dead:
            raise Died
        return await self._store.read(function, *args, **kwargs)

    async def write(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if self._dead:
            raise Died
        self._writes += 1
        self._dead = self._fatal in (self._writes, function.__name__)
        if self._dead and not self._committed:
            raise Died
        done = await self._store.write(function, *args, **kwargs)
        if self._dead:
            raise Died
        return done


class Site:
    """A data directory, in which everything is that outlives a process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ratchet]:
        """A process's parts, of which nothing happens by itself."""
        url = f"sqlite:///{self.path / 'ratchet.db'}"
        if not self.path.exists():
            self.path.mkdir()
            migrate_at(url)
        async with application(url, definitions=DEFINITIONS, embedded=False, data=self.path) as app:
            yield app.ratchet

    def copied(self, path: Path) -> "Site":
        return Site(Path(shutil.copytree(self.path, path)))

    @property
    def left_behind(self) -> list[Path]:
        """The run directories that are there."""
        return list(self.path.glob("compiles/*"))

    async def ended(self, fatal: int | str, *, committed: bool) -> bool:
        """Whether a process that works here until the loop has nothing more to do dies before."""
        async with self.opened() as ratchet:
            mortal = replace(ratchet, store=MortalStore(ratchet.store, fatal, committed=committed))
            try:
                await work(mortal)
            except Died:
                return True
        return False

    async def check(self) -> None:
        """Another process goes on: all of it happened, and once."""
        async with self.opened() as ratchet:
            await ratchet.store.write(release_runs)
            await learn(ratchet)
            async with compiling(ratchet):
                while await ratchet.store.read(open_run, "triage") or self.left_behind:
                    await asyncio.sleep(0.05)
            await learn(ratchet)
            await work(ratchet)
            (run,) = (await ratchet.store.read(runs_page)).items
            (trial,) = await ratchet.store.read(experiments_in, ("draft", "running", "paused", "concluded"))
            variants = await ratchet.store.read(stored_variants, "triage")
        assert (run.state, run.variant, run.experiment_id) == ("succeeded", "gepa-1", trial.experiment_id)
        assert (trial.state, trial.challengers) == ("running", ("gepa-1",))
        assert sorted(variant.name for variant in variants) == ["base", "gepa-1"]


async def work(ratchet: Ratchet) -> None:
    """All that follows from an alarm up to the trial: what the scheduler and the runner of a process do."""
    await learn(ratchet)
    claim = await ratchet.store.write(claim_run, "somebody", 60 * SECOND, ratchet.now())
    if claim is not None:
        await carry_out(ratchet, claim)
    await learn(ratchet)


async def alarmed(path: Path) -> Site:
    """Enough to learn from, and an alarm that nobody has answered."""
    site = Site(path)
    async with site.opened() as ratchet:
        await labelled(ratchet.store, 240)
        now = ratchet.now()
        reading = Reading(
            variant="base",
            signal="score",
            status="alarm",
            evidence_ratio=1.0,
            score=0.4,
            baseline=0.8,
            null_score=0.78,
            outcomes=500,
            change_point=now - SECOND,
            alarm_at=now,
        )
        alarm = AlarmRaised(
            program="triage",
            variant="base",
            signal="score",
            raised_at=now,
            change_point=now - 3600 * SECOND,
            noticed_at=now,
            reading=reading,
        )
        assert await ratchet.store.write(raise_alarm, alarm)
    return site


async def survived(site: Site, path: Path, *, committed: bool, most: int = 100) -> int:
    """How many writes there are, up to `most`, of which each is the last of a process, and others go on."""
    for number in range(1, most + 1):
        copy = site.copied(path / f"{site.path.name}-{number}")
        if not await copy.ended(number, committed=committed):
            return number - 1
        await copy.check()
    return most


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
async def test_a_process_that_dies_at_any_write_leaves_a_loop_that_others_complete(
    tmp_path: Path, *, committed: bool
) -> None:
    """Up to the child's start, and from its result on: the writes between tell no more than how far it is."""
    asked = await alarmed(tmp_path / "asked")
    assert await survived(asked, tmp_path, committed=committed, most=4) == 4
    compiled = asked.copied(tmp_path / "compiled")
    assert await compiled.ended("admit", committed=False)
    async with compiled.opened() as ratchet:
        await ratchet.store.write(release_runs)
    assert await survived(compiled, tmp_path, committed=committed) > 3
