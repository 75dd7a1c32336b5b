"""The command and its verbs."""

import sys
from typing import Any

import rich_click as click

from experiments.errors import RatchetError
from server.cli.compiles import compile_
from server.cli.definitions import apply, check, diff
from server.cli.doctor import doctor
from server.cli.drift import drift
from server.cli.experiments import experiments, replay
from server.cli.keys import keys
from server.cli.operating import freeze, status, unfreeze
from server.cli.output import Refused
from server.cli.planning import simulate
from server.cli.running import demo, migrate, serve, up, work

_GROUPS: list[tuple[str, list[click.Command]]] = [
    ("Run", [up, serve, work, migrate, demo, doctor]),
    ("Define", [check, diff, apply]),
    ("Operate", [status, experiments, compile_, drift, simulate, replay, freeze, unfreeze, keys]),
]
_LISTED = [{"name": name, "commands": [verb.name for verb in verbs]} for name, verbs in _GROUPS]


class _Ratchet(click.RichGroup):
    """Turns every error raised on purpose into a refusal: its sentence, line for line, and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RatchetError as error:
            refused = Refused.by(error)
        except Refused as error:
            refused = error
        refused.show()
        return ctx.exit(refused.exit_code)


@click.group(cls=_Ratchet, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ratchet-server", prog_name="ratchet")
@click.rich_config({"command_groups": {"ratchet": _LISTED}})
def ratchet() -> None:
    """Ratchet makes an LLM program better while it is in production, and never lets it slip back.

    Begin with `ratchet demo` to see the loop, or `ratchet up --config ratchet.yaml` to serve your own programs.
    """


for _, group in _GROUPS:
    for verb in group:
        ratchet.add_command(verb)


def main() -> None:
    """The entry point."""
    sys.exit(ratchet(prog_name="ratchet"))
