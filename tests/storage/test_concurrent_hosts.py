"""Tests transactions of two hosts about one question at the same moment."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection

import bot.storage.inbox
from bot.storage import Storage
from bot.storage.outbox import put_final
from bot.types.messages import Reply
from tests.support.builders.storage_rows import ANN, KEY, answer, ask, part
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]

Delete = Callable[[Storage], Awaitable[object]]


@pytest.fixture
async def hosts(tmp_path: Path, url: SecretStr) -> AsyncIterator[list[Storage]]:
    """Two hosts."""
    async with AsyncExitStack() as stack:
        hosts = [await Storage.open(tmp_path / name, url) for name in ("first", "second")]
        for host in hosts:
            stack.push_async_callback(host.close)
        yield hosts


@pytest.mark.fault(67)
@pytest.mark.parametrize(
    "delete",
    [
        lambda storage: storage.history.remove_message(KEY, "m1"),
        lambda storage: storage.history.forget(KEY),
        lambda storage: storage.history.forget_author(KEY, ANN.id),
        lambda storage: storage.history.undo(KEY),
        lambda storage: storage.history.reset(KEY),
    ],
    ids=["delete", "forget all", "forget", "undo", "reset"],
)
async def test_an_answer_that_ends_while_its_question_is_deleted_elsewhere_is_not_read_again(
    hosts: list[Storage], url: SecretStr, postgresql: PostgresqlProcess, delete: Delete
) -> None:
    first, second = hosts
    request = await ask(first, "m1")
    await first.inbox.start(request.request_id)
    begun, goes_on = threading.Event(), threading.Event()

    def slow_put_final(connection: Connection, replies: list[Reply]) -> None:
        begun.set()
        assert goes_on.wait(20)
        put_final(connection, replies)

    def waiting() -> bool:
        return postgresql.execute("SELECT count(*) FROM pg_locks WHERE NOT granted", url) != [(0,)]

    with patch.object(bot.storage.inbox, "put_final", slow_put_final):
        ending = asyncio.create_task(answer(first, request, "an answer", part(request)))
        await asyncio.to_thread(begun.wait, 20)
        deleting = asyncio.ensure_future(delete(second))
        async with asyncio.timeout(20):
            while not waiting():  # noqa: ASYNC110 -- of the server
                await asyncio.sleep(0.01)
        goes_on.set()
        await asyncio.gather(ending, deleting)
    assert await first.history.turns(KEY) == []
