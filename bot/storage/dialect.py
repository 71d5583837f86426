"""The SQL that SQLite and PostgreSQL write differently; all other statements are the same for both.

`insert` is PostgreSQL's; SQLAlchemy also compiles its ON CONFLICT clauses for SQLite, which has the same syntax.
"""

from typing import Any

from sqlalchemy import Boolean, ColumnElement
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

__all__ = ["Insert", "insert", "json_number_is_positive"]


class _JsonNumberIsPositive(GenericFunction[bool]):
    """Whether the number of a name in a column with a JSON object as text is above 0."""

    type = Boolean()
    inherit_cache = True
    name = "json_number_is_positive"


def json_number_is_positive(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether the number `name` in a column with a JSON object as text is above 0; NULL without one."""
    return _JsonNumberIsPositive(column, name)


@compiles(_JsonNumberIsPositive)
def _in_sqlite(element: _JsonNumberIsPositive, compiler: SQLCompiler, **options: Any) -> str:
    column, name = element.clauses
    return f"json_extract({compiler.process(column, **options)}, '$.' || {compiler.process(name, **options)}) > 0"


@compiles(_JsonNumberIsPositive, "postgresql")
def _in_postgresql(element: _JsonNumberIsPositive, compiler: SQLCompiler, **options: Any) -> str:
    column, name = element.clauses
    value = f"CAST({compiler.process(column, **options)} AS jsonb) ->> {compiler.process(name, **options)}"
    return f"CAST({value} AS double precision) > 0"
