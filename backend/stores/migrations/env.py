"""How alembic reaches the database: by the connection, and within the transaction, of whoever asks for the migration."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
