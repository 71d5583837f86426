"""Tests the core through an adapter: bounded backfill, threads, presence, refusals."""

import asyncio
import time
from pathlib import Path

import pytest

from bot.models.catalog import Catalog
from bot.service.service import Service
from bot.storage import Inbox
from bot.types.errors import ConfigError, StorageError
from bot.types.messages import Accepted, GenerationRequest, IncomingMessage
from tests.support.builders.service import House, make_settings, open_house
from tests.support.builders.storage_rows import rows
from tests.support.fakes.engine import ScriptedEngine
from tests.support.fakes.platform import ScriptedAdapter
from tests.support.fakes.team import Team, person
from tests.support.fakes.world import Fault, World

pytest_plugins = ["tests.support.fixtures.service"]

MINUTE = 60.0
CURSORS = "SELECT channel FROM cursors"


def minutes_ago(minutes: float) -> float:
    return time.time() - minutes * MINUTE


async def after_one_message(root: Path, world: World) -> Team:
    """Handles one message in the general channel, then stops the service; the users."""
    async with open_house(root, world) as house:
        await house.adapter.caught_up.wait()
        await house.team.sends("ana", "before", at=minutes_ago(30))
        await house.team.reply_to("before")
    await world.until(lambda: not world.here, "it is gone")
    world.posted.clear()
    return house.team


@pytest.mark.fault(10)
async def test_of_sixty_missed_questions_fifty_are_answered_each_once(tmp_path: Path) -> None:
    async with World(redelivers=False) as world:
        team = await after_one_message(tmp_path, world)
        for number in range(60):
            await team.sends("ana", f"question {number}", at=minutes_ago(10) + number)
        async with open_house(tmp_path, world, per_user=3) as house:
            await team.reply_to("question 49")
            await house.adapter.caught_up.wait()
            world.cut()
            await world.until(lambda: world.calls["since"] == 2, "it reads back again")
            await house.adapter.caught_up.wait()
        assert house.engine.questions() == [f"question {number}" for number in range(50)]
        assert len(world.posted) == 50


async def test_neither_old_questions_nor_those_of_an_unknown_channel_are_answered(tmp_path: Path) -> None:
    async with World(redelivers=False) as world:
        team = await after_one_message(tmp_path, world)
        await team.sends("ana", "from yesterday", at=minutes_ago(24 * 60))
        await team.elsewhere(channel="new").sends("ana", "in a new channel", at=minutes_ago(5))
        await team.sends("ana", "from now", at=minutes_ago(5))
        async with open_house(tmp_path, world) as house:
            await team.reply_to("from now")
        assert house.engine.questions() == ["from now"]


async def test_what_comes_live_while_it_is_read_back_is_answered_once(tmp_path: Path) -> None:
    async with World(redelivers=False) as world:
        team = await after_one_message(tmp_path, world)
        await team.sends("ana", "missed", at=minutes_ago(5))
        world.gates.hold("since")
        async with open_house(tmp_path, world) as house:
            await world.gates.reached("since")
            assert await team.says("ben", "live", at=minutes_ago(4)) != Accepted()
            await world.gates.open("since")
            await team.reply_to("missed")
            await house.adapter.caught_up.wait()
        assert sorted(house.engine.questions()) == ["live", "missed"]
        assert len(world.posted) == 2


async def test_what_the_disk_did_not_take_is_read_back_although_later_questions_were_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Inbox.ask

    async def full(*args: object, **more: object) -> bool:
        raise StorageError("The disk is full.")

    monkeypatch.setattr("bot.conversations.backfill.SAVE_S", 0.01)
    async with World(redelivers=False) as world:
        team = await after_one_message(tmp_path, world)
        async with open_house(tmp_path, world) as house:
            await house.adapter.caught_up.wait()
            monkeypatch.setattr(Inbox, "ask", full)
            number = await team.sends("ana", "not stored", at=minutes_ago(3))
            await world.until(lambda: number in world.errors, "it could not be stored")
            monkeypatch.setattr(Inbox, "ask", ask)
            await team.sends("ana", "stored", at=minutes_ago(2))
            await team.reply_to("stored")
            await team.elsewhere(channel="other").sends("ben", "hello", at=minutes_ago(2))
            await world.until(lambda: "other" in str(rows(tmp_path / "state", CURSORS)), "cursors are stored")
            world.cut()
            await team.reply_to("not stored")
        assert house.engine.questions() == ["stored", "hello", "not stored"]


async def test_a_disk_that_is_full_while_it_reads_back_only_delays_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, failures = Inbox.ask, [StorageError("The disk is full.")] * 3

    async def failing(*args: object, **more: object) -> GenerationRequest | None:
        if failures:
            raise failures.pop()
        return await ask(*args, **more)  # type: ignore[arg-type]  # same arguments

    async with World(redelivers=False) as world:
        team = await after_one_message(tmp_path, world)
        for text in ("one", "two"):
            await team.sends("ana", text, at=minutes_ago(3))
        world.fails("since", Fault.RETRY)
        monkeypatch.setattr(Inbox, "ask", failing)
        async with open_house(tmp_path, world) as house:
            for text in ("one", "two"):
                await team.reply_to(text)
        assert house.engine.questions() == ["one", "two"]


async def test_what_is_said_to_others_is_heard_and_not_answered(tmp_path: Path) -> None:
    async with World(redelivers=False) as world, open_house(tmp_path, world) as house:
        await house.adapter.caught_up.wait()
        core = house.adapter.core
        assert core is not None
        event = IncomingMessage(house.team.key, "1", person("ana"), "hi Ben", time.time(), addressed=False)
        assert await core.handle(event) == Accepted()
        assert not await core.following(house.team.key)
        await house.team.asks("ana", "hello")
        assert await core.following(house.team.key)
        assert house.engine.questions() == ["hello"]


async def test_a_thread_is_followed_without_another_mention(house: House, team: Team) -> None:
    thread, core = team.elsewhere(thread="thread"), house.adapter.core
    assert core is not None
    stranger = IncomingMessage(thread.key, "1", person("ben"), "by the way", 1.0, addressed=False)
    assert await core.handle(stranger) == Accepted()
    await thread.asks("ana", "hello")
    thread.asked["and now?"] = "2"
    next_one = IncomingMessage(thread.key, "2", person("ben"), "and now?", 20.0, addressed=False)
    assert await core.handle(next_one) != Accepted()
    await thread.reply_to("and now?")
    assert house.engine.questions() == ["hello", "and now?"]


async def test_the_presence_tells_model_speed_and_waiters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.core.presence.WATCH_S", 0.01)
    async with World() as world:
        world.gates.hold("half small")
        async with open_house(tmp_path, world, ready=False) as house:
            await world.gates.reached("half small")
            await world.connected()
            core = house.adapter.core
            assert core is not None
            assert core.presence() == "loading small, 50%"
            await world.gates.open("half small")
            await world.until(lambda: core.presence() == "small", "it is loaded")
            world.gates.hold("first/1")
            for text in ("first", "second", "third"):
                await house.team.says("ana", text)
            await world.until(lambda: core.presence() == "small · 22 tokens/s · 2 waiting", core.presence())
            await world.gates.open("first/1")
            await house.team.reply_to("third")
            house.engine.deadly["small"] = 1
            house.engine.answers("fatal", "dies here", dies_at=0, deaths=1)
            world.gates.hold("load small")
            await house.team.says("ana", "fatal")
            await world.until(lambda: core.presence().startswith("loading small"), "it is loaded again")
            await world.gates.open("load small")
            await house.team.reply_to("fatal")


@pytest.mark.fault(12)
@pytest.mark.parametrize("platforms", [1, 2])
async def test_a_token_that_is_refused_at_the_start_ends_everything(tmp_path: Path, platforms: int) -> None:
    async with World() as world:
        adapters = [ScriptedAdapter(world.port, "first", refusal="The token is wrong; set another one.")]
        adapters += [ScriptedAdapter(world.port, "second")][: platforms - 1]
        settings = make_settings(tmp_path)
        service = Service(settings, Catalog.of(settings), adapters, ScriptedEngine(world.gates.passing))
        with pytest.raises(ConfigError, match="The token is wrong"):
            await service.run()


@pytest.mark.fault(12)
async def test_a_token_that_is_revoked_later_ends_its_platform_and_with_the_last_one_everything(tmp_path: Path) -> None:
    async with World() as world:
        first, second = ScriptedAdapter(world.port, "scripted"), ScriptedAdapter(world.port, "second")
        settings = make_settings(tmp_path)
        service = Service(settings, Catalog.of(settings), [first, second], ScriptedEngine(world.gates.passing))
        running = asyncio.create_task(service.run())
        await first.caught_up.wait()
        await second.caught_up.wait()
        second.is_refused("The token was revoked.")
        assert (await Team.of(world).asks("ana", "hello")).text == "You said: hello"
        first.is_refused("This token was revoked, too.")
        with pytest.raises(ConfigError, match="This token was revoked, too"):
            await running
