"""Tests storage faults on either platform: a locked or full database, or a crash before the message was stored."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.pool import Pool

from tests.support.builders.discord_service import answered_once, open_house
from tests.support.builders.platform_services import House, Message, Platform, only_asked
from tests.support.builders.storage_rows import listening, rows
from tests.support.fakes.discord import FakeDiscord

pytest_plugins = ["tests.support.fixtures.both_platforms"]


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Another program writes to the database until the block ends."""
    with closing(sqlite3.connect(root / "state" / "inhouse.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.rollback()


async def a_known_channel(house: House, root: Path) -> Message:
    """Asks a question, and waits until its answer and the channel's cursor are stored; the question."""
    first = await house.ana.says(house.general, "before", mention=True)
    await house.answer_to(first)
    await house.server.until(lambda: rows(root / "state", "SELECT 1 FROM cursors"), 2)
    return first


@pytest.mark.fault(4)
async def test_what_was_not_stored_before_the_end_is_read_back_from_discord(tmp_path: Path) -> None:
    async with FakeDiscord() as server:
        async with open_house(tmp_path, server) as house:
            first = await a_known_channel(house, tmp_path)
            with locked(tmp_path):
                question = await house.ana.says(house.general, "hello", mention=True)
                await server.until(lambda: server.frames[-1].event == "MESSAGE_CREATE")
                await house.dies()
            assert rows(tmp_path / "state", "SELECT count(*) FROM turns WHERE role = 'user'") == [(1,)]
        async with open_house(tmp_path, server, earlier=house) as again:
            await answered_once(again, first, question)
            server.redeliver(question)
            await only_asked(again, "hello")
            await answered_once(again, first, question)


@pytest.mark.fault(5)
async def test_what_a_full_disk_did_not_take_is_read_back_from_discord(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 60")

    async with FakeDiscord() as server:
        with listening(Pool, "connect", limit):
            async with open_house(tmp_path, server) as house:
                first = await a_known_channel(house, tmp_path)
                files = {"huge.txt": b"word " * 39_000}
                question = await house.ana.says(house.general, "look", mention=True, files=files)
                await server.until(lambda: "is full: free some space" in caplog.text)
        assert len(house.general.messages) == 1
        async with open_house(tmp_path, server, earlier=house) as again:
            await again.answer_to(question)
            await again.answer_to(first)
            assert len(again.engine.questions()) == 1


@pytest.mark.fault(37)
@pytest.mark.parametrize("seconds", [1.0, 6.5])
async def test_a_database_that_is_locked_for_a_while_loses_nothing_on_discord(tmp_path: Path, seconds: float) -> None:
    async with FakeDiscord() as server, open_house(tmp_path, server) as house:
        with locked(tmp_path):
            question = await house.ana.says(house.general, "hello", mention=True)
            await asyncio.sleep(seconds)
            assert not house.engine.questions()
            assert not house.general.messages
        await answered_once(house, question)


@pytest.mark.fault(6)
async def test_what_is_delivered_in_the_wrong_order_is_read_in_the_right_one(
    tmp_path: Path, platform: Platform
) -> None:
    async with platform.open(tmp_path) as house:
        said = {"thread": await house.ana.says(house.general, "one", mention=True)} if platform.name == "slack" else {}
        first = said.get("thread") or await house.ana.says(house.general, "one", mention=True)
        await house.answer_to(first)
        late = await platform.is_told_late(lambda: house.ana.says(house.general, "two", mention=True, **said))
        platform.server.clock.advance(1)
        early = await house.ben.says(house.general, "three", mention=True, **said)
        await house.answer_to(early)
        platform.tells(late)
        await house.server.until(lambda: house.engine.questions() == ["one", "three", "two"])
        await house.server.until(
            lambda: len(rows(tmp_path / "state", "SELECT 1 FROM outbox WHERE state = 'final'")) == 3
        )
        last = await house.ana.says(house.general, "four", mention=True, **said)
        await house.answer_to(last)
        read = [turn.text for turn in house.engine.prompt_of("four").prompt.turns]
        told = [line for text in ("one", "two", "three") for line in (text, f"You said: {text}")]
        assert read == [*told, "four"]
