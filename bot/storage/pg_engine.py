"""Creates SQLAlchemy's engines for a PostgreSQL server.

Their statements need no state of a session, so a connection pooler may be in between.
"""

from collections.abc import Sequence
from math import isnan
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool


def engine_of(url: URL, **options: Any) -> Engine:
    """An engine whose statements need no state of a session, and store what PostgreSQL can, as SQLite does."""
    engine = create_engine(
        url,
        # PgBouncer may give each transaction another session, which does not know prepared statements
        connect_args={"prepare_threshold": None},
        hide_parameters=True,
        use_native_hstore=False,
        **({"max_overflow": 0} | options if "pool_size" in options else options),
    )
    event.listen(engine, "before_cursor_execute", _storable, retval=True)
    return engine


def unpooled(url: URL) -> Engine:
    """An engine that opens a connection for each transaction."""
    return engine_of(url, poolclass=NullPool)


def _storable(
    _: Connection, cursor: object, statement: str, parameters: Any, context: object, many: bool
) -> tuple[str, Any]:
    if isinstance(parameters, dict):
        return statement, _storable_values(parameters)
    if isinstance(parameters, Sequence) and parameters and isinstance(parameters[0], dict):
        return statement, [_storable_values(each) for each in parameters]
    return statement, parameters


def _storable_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: storable_value(value) for name, value in values.items()}


def storable_value(value: Any) -> Any:
    """Replace NUL, which PostgreSQL's texts cannot have, and NaN, which SQLite stores as NULL."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    return None if isinstance(value, float) and isnan(value) else value
