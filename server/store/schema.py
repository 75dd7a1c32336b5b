"""The tables' own history: bringing a database up to date, and telling whether it is."""

from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from experiments.errors import Conflict
from server.store.engine import Database

SchemaState = Literal["empty", "outdated", "current", "newer"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY = 0x7261746368657400
"""The number under which migrations of this project lock each other out on PostgreSQL."""


def schema_state(conn: sa.Connection) -> SchemaState:
    """How the tables stand to this version: none yet, older, the same, or made by a newer one."""
    heads = MigrationContext.configure(conn).get_current_heads()
    if not heads:
        return "empty"
    script = ScriptDirectory(str(_MIGRATIONS))
    if set(heads) == set(script.get_heads()):
        return "current"
    known = {revision.revision for revision in script.walk_revisions()}
    return "outdated" if known.issuperset(heads) else "newer"


def require_current(conn: sa.Connection) -> None:
    """Raises: Conflict with the cure when the tables are not this version's."""
    state = schema_state(conn)
    if state == "newer":
        raise Conflict("the database was made by a newer version of Ratchet; run that version, or restore a backup")
    if state != "current":
        raise Conflict(f"the tables of this database are {state}; run `ratchet migrate`")


def migrate(database: Database) -> None:
    """Bring the tables up to date, in one transaction; two at the same time wait for each other.

    Raises: Conflict when the database was made by a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with database.writer.begin() as conn:
        if not database.sqlite:
            # Give up rather than queue behind a long transaction, with everybody else queueing behind us.
            conn.exec_driver_sql("SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '15min'")
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY)))
        if schema_state(conn) == "newer":
            require_current(conn)
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
