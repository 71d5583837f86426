"""Tests storage faults on either platform: a locked or full database, or a crash before the message was stored."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.pool import Pool

from tests.support.builders.discord_service import answered_once, run_discord_service
from tests.support.builders.platform_services import Message, Platform, PlatformSetup, only_asked
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


async def a_known_channel(setup: PlatformSetup, root: Path) -> Message:
    """Asks a question, and waits until its answer and the channel's cursor are stored; the question."""
    first = await setup.ana.says(setup.general, "before", mention=True)
    await setup.answer_to(first)
    await setup.server.until(lambda: rows(root / "state", "SELECT 1 FROM cursors"), 2)
    return first


@pytest.mark.fault(4)
async def test_what_was_not_stored_before_the_end_is_read_back_from_discord(tmp_path: Path) -> None:
    async with FakeDiscord() as server:
        async with run_discord_service(tmp_path, server) as setup:
            first = await a_known_channel(setup, tmp_path)
            with locked(tmp_path):
                question = await setup.ana.says(setup.general, "hello", mention=True)
                await server.until(lambda: server.frames[-1].event == "MESSAGE_CREATE")
                await setup.dies()
            assert rows(tmp_path / "state", "SELECT count(*) FROM turns WHERE role = 'user'") == [(1,)]
        async with run_discord_service(tmp_path, server, earlier=setup) as again:
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
            async with run_discord_service(tmp_path, server) as setup:
                first = await a_known_channel(setup, tmp_path)
                files = {"huge.txt": b"word " * 39_000}
                question = await setup.ana.says(setup.general, "look", mention=True, files=files)
                await server.until(lambda: "is full: free some space" in caplog.text)
        assert len(setup.general.messages) == 1
        async with run_discord_service(tmp_path, server, earlier=setup) as again:
            await again.answer_to(question)
            await again.answer_to(first)
            assert len(again.engine.questions()) == 1


@pytest.mark.fault(37)
@pytest.mark.parametrize("seconds", [1.0, 6.5])
async def test_a_database_that_is_locked_for_a_while_loses_nothing_on_discord(tmp_path: Path, seconds: float) -> None:
    async with FakeDiscord() as server, run_discord_service(tmp_path, server) as setup:
        with locked(tmp_path):
            question = await setup.ana.says(setup.general, "hello", mention=True)
            await asyncio.sleep(seconds)
            assert not setup.engine.questions()
            assert not setup.general.messages
        await answered_once(setup, question)


@pytest.mark.fault(6)
async def test_what_is_delivered_in_the_wrong_order_is_read_in_the_right_one(
    tmp_path: Path, platform: Platform
) -> None:
    async with platform.open(tmp_path) as setup:
        said = {"thread": await setup.ana.says(setup.general, "one", mention=True)} if platform.name == "slack" else {}
        first = said.get("thread") or await setup.ana.says(setup.general, "one", mention=True)
        await setup.answer_to(first)
        late = await platform.is_told_late(lambda: setup.ana.says(setup.general, "two", mention=True, **said))
        platform.server.clock.advance(1)
        early = await setup.ben.says(setup.general, "three", mention=True, **said)
        await setup.answer_to(early)
        platform.tells(late)
        await setup.server.until(lambda: setup.engine.questions() == ["one", "three", "two"])
        await setup.server.until(
            lambda: len(rows(tmp_path / "state", "SELECT 1 FROM outbox WHERE state = 'final'")) == 3
        )
        last = await setup.ana.says(setup.general, "four", mention=True, **said)
        await setup.answer_to(last)
        read = [turn.text for turn in setup.engine.prompt_of("four").prompt.turns]
        told = [line for text in ("one", "two", "three") for line in (text, f"You said: {text}")]
        assert read == [*told, "four"]
