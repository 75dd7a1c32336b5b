"""Migrations and tables say the same."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from experiments.errors import Conflict
from server.store.engine import Database
from server.store.schema import migrate, schema_state
from server.store.store import Store, migrate_at
from server.store.tables import metadata
from tests.postgres import Postgres


def sqlite_statements(conn: sa.Connection) -> set[str]:
    """What made every table and index, word for word."""
    query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    return set(conn.scalars(sa.text(query)))


def postgres_facts(conn: sa.Connection) -> set[tuple[object, ...]]:
    """Every column with its type and collation, and every index."""
    columns = """SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'alembic%'"""
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE 'alembic%'"
    return {tuple(row) for query in (columns, indexes) for row in conn.execute(sa.text(query))}


def test_migrations_make_exactly_the_tables(database_url: str, tmp_path: Path, postgres: Postgres) -> None:
    migrated = Database(database_url)
    facts = sqlite_statements if migrated.sqlite else postgres_facts
    fresh = Database(f"sqlite:///{tmp_path / 'fresh.db'}" if migrated.sqlite else postgres.create())
    with migrated.writer.begin() as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
        made = facts(conn)
    with fresh.writer.begin() as conn:
        metadata.drop_all(conn)
        metadata.create_all(conn)
        assert facts(conn) == made
    migrated.close()
    fresh.close()


def test_migrating_again_changes_nothing(database_url: str) -> None:
    migrate_at(database_url)
    database = Database(database_url)
    with database.writer.begin() as conn:
        assert schema_state(conn) == "current"
    database.close()


def test_a_database_without_tables_is_refused_naming_the_cure(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ratchet.db'}"
    with pytest.raises(Conflict, match="run `ratchet migrate`"):
        Store.open(url)
    migrate_at(url)
    database = Database(url)
    with database.readers.connect() as conn:
        assert schema_state(conn) == "current"
    database.close()


def test_a_database_of_a_newer_version_is_left_alone(database_url: str) -> None:
    database = Database(database_url)
    with database.writer.begin() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        assert schema_state(conn) == "newer"
    with pytest.raises(Conflict, match="newer version"):
        migrate(database)
    database.close()
    with pytest.raises(Conflict, match="newer version"):
        Store.open(database_url, migrating=True)


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'ratchet.db'}")
    with database.writer.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE ticks (something TEXT)")
    with pytest.raises(sa.exc.OperationalError, match="already exists"):
        migrate(database)
    with database.writer.begin() as conn:
        assert sa.inspect(conn).get_table_names() == ["ticks"]
    database.close()
