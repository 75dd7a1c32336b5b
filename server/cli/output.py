"""What the command prints: tables for people, one JSON document for scripts, refusals that say what to do next."""

import sys
from collections.abc import Callable, Iterable
from typing import IO, Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from experiments.errors import RatchetError

_WIDTH_IN_FILES = 160

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


class Refused(click.ClickException):
    """What was asked for was not done; the message says why and what to do next."""

    exit_code = 1

    @classmethod
    def by(cls, error: RatchetError) -> "Refused":
        """The refusal that an error of ours amounts to: one line per fault where it has any."""
        lines = [
            fault.message if fault.message in error.detail else f"{fault.pointer}: {fault.message}"
            for fault in error.faults
        ]
        told = all(line in error.detail for line in lines)
        return cls(error.detail if told else "\n".join([error.detail, *lines]))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it on standard error."""
        console = Console(file=file or sys.stderr, highlight=False, soft_wrap=True)
        console.print(Text("Refused: ", style="bold red") + Text(self.message))


def console() -> Console:
    """Where results are printed; wide where no terminal limits it, so that scripts and files get whole lines."""
    width = None if sys.stdout.isatty() else _WIDTH_IN_FILES
    return Console(file=sys.stdout, width=width, highlight=False)


def show(result: Any, *, as_json: bool, human: Callable[[Console], None]) -> None:
    """Print a result: as JSON, or the way `human` does."""
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
    else:
        human(console())


def table(*columns: str, rows: Iterable[Iterable[Any]], title: str | None = None) -> Table:
    """A table without frames; a column whose name begins with `>` is aligned to the right. Cells are no markup."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else escape(number(cell)) for cell in row))
    return made


def number(value: Any) -> str:
    """A value in a cell: few digits, `-` where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def count(number: int, thing: str) -> str:
    """`1 decision`, `2 decisions`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
