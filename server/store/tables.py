"""Every table, the same on SQLite and PostgreSQL.

Times and durations are microseconds and money is picodollars, all BIGINT. Ids and names are TEXT compared byte by byte
(PostgreSQL: collation "C"), so that both databases sort them alike. JSON is TEXT written by msgspec, so that both hold
equal bytes and a digest of a row means the same in either.

Nothing refers to anything by foreign key: facts arrive in any order, content may be deleted while the facts stay, and a
row lock on a prediction for each of its outcomes would be paid on every request.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

BYTEWISE = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that both databases compare and sort byte by byte."""

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ix": "%(column_0_label)s_idx",
    }
)

meta = Table("meta", metadata, Column("key", BYTEWISE, primary_key=True), Column("value", Text, nullable=False))

definitions = Table(
    "definitions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("applied_at", BigInteger, nullable=False),
    Column("actor", Text),
)

programs = Table(
    "programs",
    metadata,
    Column("name", BYTEWISE, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

variants = Table(
    "variants",
    metadata,
    Column("program", BYTEWISE, primary_key=True),
    Column("name", BYTEWISE, primary_key=True),
    Column("id", BYTEWISE, nullable=False),
    Column("parent", BYTEWISE),
    Column("origin", BYTEWISE, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("program", "id"),
)

routings = Table(
    "routings",
    metadata,
    Column("program", BYTEWISE, primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("experiment_id", BYTEWISE),
    Column("created_at", BigInteger, nullable=False),
)

predictions = Table(
    "predictions",
    metadata,
    Column("prediction_id", BYTEWISE, primary_key=True),
    Column("program", BYTEWISE, nullable=False),
    Column("experiment_id", BYTEWISE),
    Column("epoch", Integer, nullable=False),
    Column("unit_hash", BYTEWISE, nullable=False),
    Column("assigned_variant", BYTEWISE, nullable=False),
    Column("variant", BYTEWISE),
    Column("propensity", Double, nullable=False),
    Column("status", BYTEWISE, nullable=False),
    Column("error", BYTEWISE),
    Column("latency", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger),
    Column("assigned_cost", BigInteger),
    Column("assigned_tokens", BigInteger),
    Column("calls", Text, nullable=False),
    Column("covariates", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("answered_at", BigInteger, nullable=False),
    Column("trace_id", BYTEWISE),
    Index("predictions_program_idx", "program", "created_at"),
    # Traffic outside experiments is the larger part and is never read by experiment.
    Index(
        "predictions_experiment_idx",
        "experiment_id",
        "created_at",
        sqlite_where=text("experiment_id IS NOT NULL"),
        postgresql_where=text("experiment_id IS NOT NULL"),
    ),
    Index(
        "predictions_unit_idx",
        "experiment_id",
        "unit_hash",
        "created_at",
        sqlite_where=text("experiment_id IS NOT NULL"),
        postgresql_where=text("experiment_id IS NOT NULL"),
    ),
)

contents = Table(
    "contents",
    metadata,
    Column("prediction_id", BYTEWISE, primary_key=True),
    Column("unit", Text),
    Column("input", Text, nullable=False),
    Column("output", Text),
    Column("error_detail", Text),
    Column("metadata", Text, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("prediction_id", BYTEWISE, primary_key=True),
    Column("metric", BYTEWISE, primary_key=True),
    Column("source", BYTEWISE, primary_key=True),
    Column("value", Double, nullable=False),
    Column("digest", BYTEWISE, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

conflicts = Table(
    "conflicts",
    metadata,
    Column("prediction_id", BYTEWISE, primary_key=True),
    Column("metric", BYTEWISE, primary_key=True),
    Column("source", BYTEWISE, primary_key=True),
    Column("digest", BYTEWISE, primary_key=True),
    Column("value", Double, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

remarks = Table(
    "remarks",
    metadata,
    Column("prediction_id", BYTEWISE, primary_key=True),
    Column("source", BYTEWISE, primary_key=True),
    Column("digest", BYTEWISE, primary_key=True),
    Column("label", Text),
    Column("comment", Text),
    Column("received_at", BigInteger, nullable=False),
)

experiments = Table(
    "experiments",
    metadata,
    Column("experiment_id", BYTEWISE, primary_key=True),
    Column("program", BYTEWISE, nullable=False),
    Column("state", BYTEWISE, nullable=False),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("experiments_created_idx", "created_at", "experiment_id"),
    Index(
        "experiments_live_idx",
        "program",
        unique=True,
        sqlite_where=text("state IN ('running', 'paused')"),
        postgresql_where=text("state IN ('running', 'paused')"),
    ),
)

entrants = Table(
    "entrants",
    metadata,
    Column("experiment_id", BYTEWISE, primary_key=True),
    Column("unit_hash", BYTEWISE, primary_key=True),
    Column("block", BigInteger, nullable=False),
    Column("variant", BYTEWISE, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("entered_at", BigInteger, nullable=False),
    # It holds all that counting a block's entrants asks for; without statistics SQLite would else walk the primary key.
    Index("entrants_block_idx", "experiment_id", "block", "epoch", "variant"),
    sqlite_with_rowid=False,
)

blocks = Table(
    "blocks",
    metadata,
    Column("experiment_id", BYTEWISE, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("closed_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

evidence = Table(
    "evidence",
    metadata,
    Column("experiment_id", BYTEWISE, primary_key=True),
    Column("blocks", BigInteger, nullable=False),
    Column("horizon", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

points = Table(
    "points",
    metadata,
    Column("experiment_id", BYTEWISE, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("challenger", BYTEWISE, primary_key=True),
    Column("metric", BYTEWISE, primary_key=True),
    Column("body", Text, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("experiment_id", BYTEWISE, primary_key=True),
    Column("tick", Integer, primary_key=True, autoincrement=False),
    Column("decision_id", BYTEWISE, nullable=False, unique=True),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

levels = Table(
    "levels",
    metadata,
    Column("program", BYTEWISE, primary_key=True),
    Column("series", Integer, primary_key=True, autoincrement=False),
    Column("t", Integer, primary_key=True, autoincrement=False),
    Column("experiment_id", BYTEWISE, nullable=False, unique=True),
    Column("alpha", Double, nullable=False),
    Column("level", Double, nullable=False),
    Column("log_e", Double),
    Column("rejected", Boolean, nullable=False),
)

promotions = Table(
    "promotions",
    metadata,
    Column("promotion_id", BYTEWISE, primary_key=True),
    Column("program", BYTEWISE, nullable=False),
    Column("from_variant", BYTEWISE, nullable=False),
    Column("to_variant", BYTEWISE, nullable=False),
    Column("experiment_id", BYTEWISE),
    Column("by", BYTEWISE, nullable=False),
    Column("actor", Text),
    Column("reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("rolled_back_at", BigInteger),
    Index("promotions_program_idx", "program", "created_at"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("program", BYTEWISE, primary_key=True),
    Column("key", BYTEWISE, primary_key=True),
    Column("body_digest", BYTEWISE, nullable=False),
    Column("holder", BYTEWISE, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("answer", Text),
    Column("created_at", BigInteger, nullable=False),
    Index("idempotency_created_idx", "created_at"),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", BYTEWISE, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", BYTEWISE, nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
)

ticks = Table(
    "ticks",
    metadata,
    Column("job", BYTEWISE, primary_key=True),
    Column("due_at", BigInteger, primary_key=True, autoincrement=False),
    Column("finished_at", BigInteger),
)

leases = Table(
    "leases",
    metadata,
    Column("name", BYTEWISE, primary_key=True),
    Column("holder", BYTEWISE, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

drifts = Table(
    "drifts",
    metadata,
    Column("program", BYTEWISE, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

alarms = Table(
    "alarms",
    metadata,
    Column("program", BYTEWISE, primary_key=True),
    Column("variant", BYTEWISE, primary_key=True),
    Column("signal", BYTEWISE, primary_key=True),
    Column("raised_at", BigInteger, primary_key=True, autoincrement=False),
    Column("change_point", BigInteger),
    Column("body", Text, nullable=False),
    Column("closed_at", BigInteger),
    Column("closed_by", Text),
)

compiles = Table(
    "compiles",
    metadata,
    Column("compile_id", BYTEWISE, primary_key=True),
    Column("program", BYTEWISE, nullable=False),
    Column("state", BYTEWISE, nullable=False),
    Column("body", Text, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("holder", BYTEWISE),
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Index("compiles_created_idx", "created_at", "compile_id"),
    Index("compiles_program_idx", "program", "created_at"),
    Index(
        "compiles_open_idx",
        "program",
        unique=True,
        sqlite_where=text("state IN ('queued', 'running')"),
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
)

compile_events = Table(
    "compile_events",
    metadata,
    Column("compile_id", BYTEWISE, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
