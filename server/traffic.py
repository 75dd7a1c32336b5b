"""Who gets what, in memory: every program with the routing in force and the variants it needs.

A prediction is routed from here without a database read. The table is read anew after this process's own writes and,
for those of other processes, at most a second later.

The same place knows which requests are still under way, and so the *horizon*: the time before which every prediction
and every outcome is known to be stored. A block of assignment time may be folded only when it lies before the horizon.
"""

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from experiments.assignment import Routing
from experiments.errors import NotFound, RatchetError, Unavailable, nearest
from experiments.quantities import SECOND
from learning.definitions import ProgramDefinition
from learning.programs import Blueprint
from learning.running import Runner
from learning.variants import Variant
from monitoring.metrics import Metrics
from server.store import Connection, Store
from server.store.definitions import StoredProgram, stored_programs, stored_variant
from server.store.routings import routings_in_force, traffic_mark

SLACK = 10 * SECOND
"""How much later than its deadline a row of another process may be stored, clock differences included."""
T = TypeVar("T")


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One program as it is served. `variants` holds, by name, those that the routing in force can lead to."""

    name: str
    definition: ProgramDefinition
    blueprint: Blueprint
    routing: Routing
    variants: dict[str, Variant]

    @property
    def champion(self) -> Variant:
        """The variant that serves whatever no experiment claims."""
        return self.variants[self.routing.champion]

    @property
    def shares(self) -> dict[str, float]:
        """The share of traffic that each variant gets right now."""
        return dict(self.routing.split) if self.routing.live else {self.routing.champion: 1.0}


class Traffic:
    """The table of programs, and the requests under way.

    `alone` says that no other process serves on this database: the horizon is then exact. `pepper` is this database's
    secret, which keeps the hashes of units from being guessed.
    """

    def __init__(
        self, store: Store, runner: Runner, metrics: Metrics, log: FilteringBoundLogger, *, alone: bool, pepper: bytes
    ) -> None:
        self._store = store
        self._runner = runner
        self._metrics = metrics
        self._log = log
        self._alone = alone
        self._pepper = pepper
        self._programs: dict[str, Program] = {}
        self._pinned: dict[tuple[str, str], Variant] = {}
        self._broken: dict[str, str] = {}
        self._mark: tuple[int, ...] = ()
        self._under_way: dict[asyncio.Task[Any], int] = {}
        self._refreshing = asyncio.Lock()

    def program(self, name: str) -> Program:
        """The program as it is served now. Raises: NotFound with the nearest name; Unavailable if it cannot load."""
        if program := self._programs.get(name):
            return program
        if reason := self._broken.get(name):
            raise Unavailable(f"program {name!r} cannot be loaded: {reason}", retry_after=30.0)
        raise NotFound(f"no program is called {name!r}; {nearest(name, self._programs)}")

    @property
    def programs(self) -> list[Program]:
        """Every program that is served, by name."""
        return [self._programs[name] for name in sorted(self._programs)]

    @property
    def broken(self) -> dict[str, str]:
        """Programs whose present form could not be loaded, with the reason."""
        return dict(self._broken)

    async def variant(self, program: Program, name: str) -> Variant:
        """Any variant of a program, ready to run, also one off traffic. Raises: NotFound with the nearest name."""
        ready = program.variants.get(name) or self._pinned.get((program.name, name))
        if ready is None:
            ready = await self._store.read(stored_variant, program.name, name)
            await asyncio.to_thread(self._runner.prepare, ready, program.definition)
            self._pinned[program.name, name] = ready
        return ready

    async def refresh(self) -> None:
        """Serve by what the database says now. A program that cannot be loaded is served in its last good form."""
        async with self._refreshing:
            mark, stored, routings = await self._store.read(_in_force)
            for program in stored:
                if routing := routings.get(program.name):
                    await self._load(program, routing)
            self._forget({program.name for program in stored})
            self._metrics.config_epoch.set(sum(mark))
            self._mark = mark

    async def poll(self) -> None:
        """Refresh if another process changed something; to be called every second."""
        if await self._store.read(traffic_mark) != self._mark:
            await self.refresh()

    async def _load(self, stored: StoredProgram, routing: Routing) -> None:
        known = self._programs.get(stored.name)
        if known and known.routing == routing and known.definition == stored.definition:
            self._broken.pop(stored.name, None)
            return
        try:
            loaded = await self._loaded(stored, routing)
        except RatchetError as error:
            self._broken[stored.name] = error.detail
            self._log.error("program_load_failed", program=stored.name, reason=error.detail)
            return
        self._programs[stored.name] = loaded
        self._broken.pop(stored.name, None)
        self._metrics.routed(stored.name, {**dict.fromkeys(loaded.variants, 0.0), **loaded.shares})
        self._log.info("traffic_changed", program=stored.name, epoch=routing.epoch, reason=routing.reason)

    async def _loaded(self, stored: StoredProgram, routing: Routing) -> Program:
        variants, blueprints = {}, {}
        for name in {routing.champion, *routing.split}:
            variants[name] = await self._store.read(stored_variant, stored.name, name)
            blueprints[name] = await asyncio.to_thread(self._runner.prepare, variants[name], stored.definition)
        return Program(
            name=stored.name,
            definition=stored.definition,
            blueprint=blueprints[routing.champion],
            routing=routing,
            variants=variants,
        )

    def _forget(self, defined: set[str]) -> None:
        for name in self._programs.keys() - defined:
            del self._programs[name]
            self._metrics.routed(name, {})
        for name in self._broken.keys() - defined:
            del self._broken[name]

    def unit_hash(self, unit: str) -> str:
        """What stands for a unit among the facts; whoever has the pepper can tell whose they are, nobody else."""
        raw = unit.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._pepper, digest_size=16).hexdigest()

    async def carry(self, work: Coroutine[Any, Any, T], began: int) -> T:
        """Do `work` to its end even if its caller goes away, holding the horizon at `began` (µs) until then."""
        return await asyncio.shield(self.begin(work, began))

    def begin(self, work: Coroutine[Any, Any, T], began: int) -> asyncio.Task[T]:
        """Begin `work` that is done to its end with nobody waiting for it, holding the horizon likewise."""
        task = asyncio.ensure_future(work)
        self._under_way[task] = began
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        del self._under_way[task]
        if not task.cancelled():
            task.exception()  # whose caller has gone: nobody else will ask for it

    async def drained(self) -> None:
        """Wait until every request under way has come to its end."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def horizon(self, now: int) -> int:
        """The time (µs) before which every prediction and outcome of this database is known to be stored.

        Alone: the start of the oldest request under way, or `now`. Beside other processes: `now` less the longest
        deadline and `SLACK`; `refuse_if_late` keeps every process to that.
        """
        mine = min(self._under_way.values(), default=now)
        if self._alone:
            return mine
        longest = max((program.definition.deadline for program in self._programs.values()), default=0)
        return min(mine, now - longest - SLACK)

    def refuse_if_late(self, began: int, deadline: int, now: int) -> None:
        """Raises: Unavailable for a row too late for the other processes' horizon, say after this one was suspended."""
        if not self._alone and now - began > deadline + SLACK // 2:
            raise Unavailable("the server was held up for longer than the deadline; nothing was recorded")


def _in_force(conn: Connection) -> tuple[tuple[int, ...], list[StoredProgram], dict[str, Routing]]:
    return traffic_mark(conn), stored_programs(conn), routings_in_force(conn)
