"""What alembic runs for each branch: :func:`gwcore.sql.migrate` gives it the connection, inside a transaction."""

from alembic import context

_given = context.config.attributes
context.configure(
    connection=_given["connection"], version_table=_given["version_table"], transaction_per_migration=False
)
context.run_migrations()
