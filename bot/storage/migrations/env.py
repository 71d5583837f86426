"""What Alembic runs: the migrations, on the connection that it was given and inside that connection's transaction."""

from alembic import context

from bot.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
