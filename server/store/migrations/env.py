"""What Alembic runs. The connection, with its transaction begun, comes from `server/store/schema.py: migrate`."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # SQLite has transactional DDL too, once the driver is kept from committing by itself.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
