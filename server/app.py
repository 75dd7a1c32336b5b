"""The web application: routes, their errors, and what runs for as long as it does.

`opened` is the composition root: the one place where the parts of `server/ratchet.py: Ratchet` are made. Routes take
`ratchet: NamedDependency[Ratchet]` (imported from `server.ratchet`, not from here: this module imports the routes).
"""

import asyncio
import gc
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from experiments.errors import RatchetError
from learning.lms import configure_process
from learning.running import Runner
from monitoring.metrics import Metrics
from server import clock, jobs, logs, openapi
from server.auth import Keyring, check_bind
from server.definitions.applying import following
from server.definitions.places import importable_beside
from server.errors import HANDLERS
from server.loop.compiling import compiling
from server.parameters import refuse_unknown
from server.ratchet import Ratchet
from server.routes import (
    compiles,
    definitions,
    drift,
    experiments,
    health,
    keys,
    operations,
    outcomes,
    predict,
    programs,
    variants,
)
from server.settings import Settings
from server.store import Store
from server.store.blocks import latest_horizon
from server.store.idempotency import release_all_keys
from server.store.upkeep import constant
from server.tracing.requests import Traced
from server.tracing.tracing import Tracing
from server.traffic import Traffic

POLL_EVERY = 0.5
"""Seconds between looks at what other processes changed; they are seen within one."""
LARGEST_BODY = 10 * 2**20
ROUTES = (
    predict,
    outcomes,
    programs,
    drift,
    variants,
    experiments,
    compiles,
    definitions,
    operations,
    keys,
    health,
    openapi,
)


@asynccontextmanager
async def opened(
    settings: Settings,
    *,
    now: Callable[[], int] = clock.now,
    runner: Callable[[], Runner] = Runner,
    tracing: Tracing | None = None,
) -> AsyncIterator[Ratchet]:
    """The parts of one process, open and in step with the database; for `create_app`, `ratchet work` and tests.

    At the end what is under way is finished and what is queued is committed. Raises: as `Store.open`.
    """
    configure_process()
    log = logs.logger(settings)
    metrics = Metrics(version=version("ratchet-server"))
    store = await asyncio.to_thread(
        Store.open, settings.database_url, migrating=settings.embedded, observe=metrics.committed
    )
    running = runner()
    try:
        if settings.embedded:
            await store.write(release_all_keys)
        now = clock.not_before(await store.read(latest_horizon), now)
        pepper = bytes.fromhex(await store.write(constant, "pepper", secrets.token_hex(32)))
        traffic = Traffic(store, running, metrics, log, alone=settings.embedded, pepper=pepper)
        ratchet = Ratchet(
            settings=settings,
            store=store,
            keys=Keyring(store, now),
            traffic=traffic,
            runner=running,
            metrics=metrics,
            tracing=tracing or Tracing(),
            log=log,
            now=now,
        )
        with logs.listening(log):
            await traffic.refresh()
            await ratchet.keys.refresh()
            yield ratchet
            await traffic.drained()
    finally:
        await running.aclose()
        await store.close()


def create_app(
    settings: Settings, *, now: Callable[[], int] = clock.now, runner: Callable[[], Runner] = Runner
) -> Litestar:
    """The application of `ratchet up`, `serve` and `work`. `app.state.ratchet` is there while its lifespan runs.

    What works without serving has health and metrics only, and those need no key.
    """
    log, tracing = logs.logger(settings), Tracing()

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        if settings.config is not None:
            importable_beside(Path(settings.config))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(tracing.exporting(os.environ, log))
            app.state.ratchet = ratchet = await stack.enter_async_context(
                opened(settings, now=now, runner=runner, tracing=tracing)
            )
            if not settings.worker:
                check_bind(settings.host, any_key=not ratchet.keys.empty)
            await stack.enter_async_context(_in_step(ratchet))
            if settings.config is not None:
                await stack.enter_async_context(following(ratchet, Path(settings.config)))
            if settings.embedded or settings.worker:
                await stack.enter_async_context(jobs.ticking(ratchet))
                await stack.enter_async_context(compiling(ratchet))
            stack.enter_context(_unwatched())
            yield

    app = Litestar(
        route_handlers=[
            handler for module in ((health,) if settings.worker else ROUTES) for handler in module.HANDLERS
        ],
        lifespan=[lifespan],
        dependencies={"ratchet": Provide(_ratchet, sync_to_thread=False)},
        guards=[refuse_unknown],
        exception_handlers=HANDLERS,
        openapi_config=openapi.config(version("ratchet-server")),
        plugins=[openapi.Structs()],
        request_max_body_size=LARGEST_BODY,
        logging_config=None,
    )
    # Around everything, so that a path that does not exist has a request id and a line in the log too.
    app.asgi_handler = Traced(logs.Requests(app.asgi_handler, log), tracing)
    return app


@contextmanager
def _unwatched() -> Iterator[None]:
    """Spare the garbage collector all that was loaded by now and stays to the end: a fifth of a request's CPU."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@asynccontextmanager
async def _in_step(ratchet: Ratchet) -> AsyncIterator[None]:
    """Follow what other processes change, until the end of the block."""
    task = asyncio.create_task(_follow(ratchet))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _follow(ratchet: Ratchet) -> None:
    lost = False
    while True:
        await asyncio.sleep(POLL_EVERY)
        ratchet.metrics.log_queue.set(ratchet.store.journal.queued)
        try:
            await ratchet.traffic.poll()
            await ratchet.keys.refresh()
        except RatchetError as error:
            if not lost:  # said once: an outage lasts for many looks
                ratchet.log.warning("database_lost", detail=error.detail)
            lost = True
        except Exception:
            ratchet.log.exception("database_not_followed")
        else:
            if lost:
                ratchet.log.info("database_found")
            lost = False


def _ratchet(state: State) -> Ratchet:
    ratchet: Ratchet = state.ratchet
    return ratchet
