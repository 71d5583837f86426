"""Alembic migrations, run by bot.storage.database inside one write transaction each time the state is opened."""
