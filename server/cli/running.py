"""up, serve, work, migrate, demo: the verbs that are a server, or make one ready."""

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import rich_click as click
import uvicorn
from rich.console import Console
from rich.markup import escape

from experiments.errors import Invalid
from server import presence
from server.cli.output import Refused, as_json, show
from server.settings import Settings, from_env, unknown

_DRAINING = 30
"""Seconds that requests under way get to end after the server was told to stop."""
_NEIGHBOURS = 20
_WORKS_AT = 8001
"""Where `ratchet work` listens by default: it may run beside a server on one machine."""


def _listening(*, port: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of a verb that listens, on `port` unless told otherwise."""

    def having(verb: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--config", metavar="FILE", help="Definitions to apply and to follow. [RATCHET_CONFIG]"),
            click.option("--host", help="Address to listen on. [RATCHET_HOST; 127.0.0.1]"),
            click.option(
                "--port",
                type=click.IntRange(0, 65535),
                help=f"Port to listen on, 0 for any free one. [RATCHET_PORT; {port}]",
            ),
        ):
            verb = option(verb)
        return verb

    return having


@click.command()
@_listening(port=Settings().port)
@as_json
def up(config: str | None, host: str | None, port: int | None, as_json: bool) -> None:
    """Run the embedded server: SQLite, scheduler and HTTP in this one process.

    Data lives in ./ratchet-data, or RATCHET_DATA. Tables are brought up to date by themselves.
    """
    _run(_settings(config, host, port, embedded=True), as_json=as_json)


@click.command()
@_listening(port=Settings().port)
@as_json
def serve(config: str | None, host: str | None, port: int | None, as_json: bool) -> None:
    """Run one server of several, on the database that RATCHET_DATABASE_URL names; `ratchet migrate` comes first.

    It serves and nothing else: what happens by itself is done by `ratchet work`, of which there must be one.
    """
    _run(_settings(config, host, port), as_json=as_json)


@click.command()
@_listening(port=_WORKS_AT)
@as_json
def work(config: str | None, host: str | None, port: int | None, as_json: bool) -> None:
    """Run the scheduler and the compiles beside `ratchet serve`, on the same database.

    Run as many as you like: one leads, and another takes over when it is gone. Over HTTP each shows its health and
    metrics, and nothing else.
    """
    _run(_settings(config, host, port, worker=True), as_json=as_json)


@click.command()
@as_json
def migrate(as_json: bool) -> None:
    """Bring the database's tables up to date."""
    from server.store.store import migrate_at

    settings = from_env(os.environ)
    migrate_at(settings.database_url)
    result = {"database": settings.database, "migrated": True}
    show(result, as_json=as_json, human=lambda out: out.print(f"The tables of {settings.database} are up to date."))


@click.command()
@click.option("--lm", type=click.Choice(["sim", "local"]), default="sim", help="A simulated LM, or a small real one.")
@click.option("--once", is_flag=True, help="End when the loop has closed, instead of going on until Ctrl-C.")
@as_json
def demo(lm: str, once: bool, as_json: bool) -> None:
    """Watch the whole loop: traffic, outcomes, an experiment, its verdict, a promotion. Needs no key and no service."""
    from server.demo import run

    sys.exit(run(from_env(os.environ), lm=lm, once=once, as_json=as_json))


def _settings(
    config: str | None, host: str | None, port: int | None, *, embedded: bool = False, worker: bool = False
) -> Settings:
    """The environment's settings with the command line's over them."""
    for sentence in unknown(os.environ):
        click.echo(f"Note: {sentence}", err=True)
    settings = from_env({"RATCHET_PORT": str(_WORKS_AT), **os.environ} if worker else os.environ)
    given = {"config": config, "host": host, "port": port}
    written = {name: value for name, value in given.items() if value is not None}
    settings = msgspec.structs.replace(settings, **written, embedded=embedded, worker=worker)
    if embedded and settings.sqlite_path is None:
        raise Invalid(f"`ratchet up` keeps its data in SQLite; use `ratchet serve` for {settings.database}")
    return settings


def _run(settings: Settings, *, as_json: bool) -> None:
    """Serve until told to stop. Raises: whatever keeps the server from starting."""
    listener = bind(settings.host, settings.port, Path(settings.data))
    from server.app import create_app
    from server.streams import stop_streams

    settings = msgspec.structs.replace(settings, port=listener.getsockname()[1])
    app = create_app(settings)
    watched = _Watched(app)
    server = _Server(
        uvicorn.Config(
            watched,
            http="httptools",
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAINING,
        ),
        on_started=lambda: _welcome(settings, as_json=as_json),
        on_stopping=lambda: stop_streams(app),
        on_stopped=lambda: presence.withdraw(Path(settings.data)),
    )
    logging.getLogger("uvicorn.error").addFilter(lambda record: server.started or record.levelno < logging.ERROR)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # uvicorn has drained and closed; the shell need not see a traceback
    except SystemExit:
        if watched.failure is not None:
            raise _cause(watched.failure) from None
        raise
    finally:
        listener.close()


def _cause(failure: BaseException) -> BaseException:
    """What went wrong, out of the groups that task groups wrap it in."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure


class _Watched:
    """The application, remembering what kept it from starting: the server around it only says that something did."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.failure: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if scope["type"] == "lifespan":
                self.failure = error
            raise


class _Server(uvicorn.Server):
    """A server that says when it has started and stopped."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_started: Callable[[], None],
        on_stopping: Callable[[], None],
        on_stopped: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_stopping = on_stopping
        self._on_stopped = on_stopped

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain and stop. Ctrl-C again: end at once, as kill -9 would; what was acknowledged is on disk."""
        if self.should_exit and sig == signal.SIGINT:
            os._exit(128 + sig)
        self._on_stopping()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain and close, then tell."""
        try:
            await super().shutdown(sockets)
        finally:
            self._on_stopped()
            # Else uvicorn raises them again at the end: a server that was told to stop has not failed.
            self._captured_signals.clear()


def bind(host: str, port: int, data: Path) -> socket.socket:
    """A socket of our own, so that a taken port is known before anything else happens.

    Raises: Refused, also naming the server of the same `data` if it is the one that has the port; Invalid.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise Invalid.at("RATCHET_HOST", f"{host!r} is no address of this machine: {error.strerror}") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        other = presence.present(data)
        if error.errno == errno.EADDRINUSE and other is not None and other.url.endswith(f":{port}"):
            raise Refused(
                f"process {other.pid} serves the data in {data} already, at {other.url}; stop it first, "
                "or give this one a port and a directory of its own: --port, RATCHET_DATA"
            ) from None
        if error.errno == errno.EADDRINUSE:
            raise Refused(
                f"port {port} is taken by another program; use a free one: --port {_free(host, port)}"
            ) from None
        raise Refused(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def _free(host: str, port: int) -> int:
    """A port near `port` that is free now; 0, any, if all its neighbours are taken."""
    for candidate in range(port + 1, min(port + _NEIGHBOURS, 65536)):
        with socket.socket() as probe:
            if probe.connect_ex((host.strip("[]"), candidate)) == errno.ECONNREFUSED:
                return candidate
    return 0


def _welcome(settings: Settings, *, as_json: bool) -> None:
    """Say on standard output, and then in the data directory, that requests are answered."""
    url = _url(settings)
    result = {"url": url, "pid": os.getpid(), "data": settings.data, "database": settings.database}
    show(result, as_json=as_json, human=lambda out: _print_welcome(out, url, settings))
    sys.stdout.flush()
    if not settings.worker:  # other verbs look for who can answer them
        presence.announce(Path(settings.data), url)


def _url(settings: Settings) -> str:
    """Where a caller on this machine reaches a server that listens on `settings.host`."""
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- only compared
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _print_welcome(out: Console, url: str, settings: Settings) -> None:
    followed = f"{settings.config}, followed as it changes"
    lines = {
        "documentation": f"{url}/docs",
        "health": f"{url}/health/ready",
        "metrics": f"{url}/metrics",
        "definitions": followed if settings.config else "those last applied; `ratchet apply ratchet.yaml` for new ones",
    }
    if settings.worker:
        del lines["documentation"]
    doing = "working; its health is" if settings.worker else "running"
    out.print(f"[bold green]Ratchet is {doing} at {url}[/]   [dim]{escape(settings.database)}[/]")
    for name, found in lines.items():
        out.print(f"  {name:<14} {escape(found)}")
    out.print("In another terminal: `ratchet status`. Stop with Ctrl-C.")
