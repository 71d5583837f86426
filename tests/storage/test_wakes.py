"""Tests the notifications with which hosts of one database wake each other."""

import asyncio
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from bot.storage import Storage
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]


@pytest.mark.parametrize(
    "more", [{}, {"options": "-c statement_timeout=5s"}, {"host": ["/nowhere:5432", "{here}:5432"]}]
)
async def test_a_host_listens_at_every_address_at_which_it_stores(
    tmp_path: Path, url: SecretStr, postgresql: PostgresqlProcess, more: dict[str, str | list[str]]
) -> None:
    query = {
        name: value if isinstance(value, str) else [host.format(here=postgresql.directory) for host in value]
        for name, value in more.items()
    }
    given = make_url(url.get_secret_value()).update_query_dict(query)
    storage = await Storage.open(tmp_path, SecretStr(given.render_as_string(hide_password=False)))
    listening = threading.Event()
    try:
        storage.on_wake(listening.set)
        assert await asyncio.to_thread(listening.wait, 5.0)
    finally:
        await storage.close()
