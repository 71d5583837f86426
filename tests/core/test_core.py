"""Tests the core through an adapter: bounded backfill, threads, presence, refusals."""

import asyncio
import time
from pathlib import Path

import pytest

from bot.models.catalog import Catalog
from bot.service.service import Service
from bot.storage import Inbox
from bot.types.errors import ConfigError, StorageError
from bot.types.messages import Accepted, GenerationRequest, IncomingMessage, Refused
from tests.support.builders.service import ServiceSetup, make_settings, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import Fault, ScriptedPlatform
from tests.support.fakes.team import Team, person

pytest_plugins = ["tests.support.fixtures.service"]

MINUTE = 60.0
CURSORS = "SELECT channel FROM cursors"


def minutes_ago(minutes: float) -> float:
    return time.time() - minutes * MINUTE


async def after_one_message(root: Path, platform: ScriptedPlatform) -> Team:
    """Handles one message in the general channel, then stops the service; the users."""
    async with run_service(root, platform) as setup:
        await setup.adapter.caught_up.wait()
        await setup.team.sends("ana", "before", at=minutes_ago(30))
        await setup.team.reply_to("before")
    await platform.until(lambda: not platform.here, "it is gone")
    platform.posted.clear()
    return setup.team


@pytest.mark.fault(10)
async def test_of_sixty_missed_questions_fifty_are_answered_each_once(tmp_path: Path) -> None:
    async with ScriptedPlatform(redelivers=False) as platform:
        team = await after_one_message(tmp_path, platform)
        for number in range(60):
            await team.sends("ana", f"question {number}", at=minutes_ago(10) + number)
        async with run_service(tmp_path, platform, per_user=3) as setup:
            await team.reply_to("question 49")
            await setup.adapter.caught_up.wait()
            platform.cut()
            await platform.until(lambda: platform.calls["since"] == 2, "it reads back again")
            await setup.adapter.caught_up.wait()
        assert setup.engine.questions() == [f"question {number}" for number in range(50)]
        assert len(platform.posted) == 50


async def test_neither_old_questions_nor_those_of_an_unknown_channel_are_answered(tmp_path: Path) -> None:
    async with ScriptedPlatform(redelivers=False) as platform:
        team = await after_one_message(tmp_path, platform)
        await team.sends("ana", "from yesterday", at=minutes_ago(24 * 60))
        await team.elsewhere(channel="new").sends("ana", "in a new channel", at=minutes_ago(5))
        await team.sends("ana", "from now", at=minutes_ago(5))
        async with run_service(tmp_path, platform) as setup:
            await team.reply_to("from now")
        assert setup.engine.questions() == ["from now"]


async def test_what_comes_live_while_it_is_read_back_is_answered_once(tmp_path: Path) -> None:
    async with ScriptedPlatform(redelivers=False) as platform:
        team = await after_one_message(tmp_path, platform)
        await team.sends("ana", "missed", at=minutes_ago(5))
        platform.gates.hold("since")
        async with run_service(tmp_path, platform) as setup:
            await platform.gates.reached("since")
            assert await team.says("ben", "live", at=minutes_ago(4)) != Accepted()
            await platform.gates.open("since")
            await team.reply_to("missed")
            await setup.adapter.caught_up.wait()
        assert sorted(setup.engine.questions()) == ["live", "missed"]
        assert len(platform.posted) == 2


async def test_what_the_disk_did_not_take_is_read_back_although_later_questions_were_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Inbox.ask

    async def full(*args: object, **more: object) -> bool:
        raise StorageError("The disk is full.")

    monkeypatch.setattr("bot.conversations.backfill.SAVE_S", 0.01)
    async with ScriptedPlatform(redelivers=False) as platform:
        team = await after_one_message(tmp_path, platform)
        async with run_service(tmp_path, platform) as setup:
            await setup.adapter.caught_up.wait()
            monkeypatch.setattr(Inbox, "ask", full)
            number = await team.sends("ana", "not stored", at=minutes_ago(3))
            await platform.until(lambda: number in platform.errors, "it could not be stored")
            monkeypatch.setattr(Inbox, "ask", ask)
            await team.sends("ana", "stored", at=minutes_ago(2))
            await team.reply_to("stored")
            await team.elsewhere(channel="other").sends("ben", "hello", at=minutes_ago(2))
            await platform.until(lambda: "other" in str(rows(tmp_path / "state", CURSORS)), "cursors are stored")
            platform.cut()
            await team.reply_to("not stored")
        assert setup.engine.questions() == ["stored", "hello", "not stored"]


async def test_a_disk_that_is_full_while_it_reads_back_only_delays_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, failures = Inbox.ask, [StorageError("The disk is full.")] * 3

    async def failing(*args: object, **more: object) -> GenerationRequest | None:
        if failures:
            raise failures.pop()
        return await ask(*args, **more)  # type: ignore[arg-type]  # same arguments

    async with ScriptedPlatform(redelivers=False) as platform:
        team = await after_one_message(tmp_path, platform)
        for text in ("one", "two"):
            await team.sends("ana", text, at=minutes_ago(3))
        platform.fails("since", Fault.RETRY)
        monkeypatch.setattr(Inbox, "ask", failing)
        async with run_service(tmp_path, platform) as setup:
            for text in ("one", "two"):
                await team.reply_to(text)
        assert setup.engine.questions() == ["one", "two"]


async def is_refused(team: Team, text: str = "refused") -> int:
    """Fills a queue of one place, and sends one more question, which is refused; the number of its event."""
    team.platform.gates.hold("first/0")
    await team.sends("ana", "first", at=minutes_ago(4))
    await team.platform.gates.reached("first/0")
    await team.sends("ana", "second", at=minutes_ago(3))
    return await team.sends("ben", text, at=minutes_ago(2))


@pytest.mark.fault(32)
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_refused_message_is_never_read_back(tmp_path: Path, restarts: bool) -> None:
    async with ScriptedPlatform(redelivers=False) as platform:
        team = await after_one_message(tmp_path, platform)
        async with run_service(tmp_path, platform, queue_size=1) as setup:
            assert isinstance(await platform.outcome(await is_refused(team)), Refused)
            await platform.gates.open("first/0")
            await team.reply_to("second")
            await setup.adapter.caught_up.wait()
            if not restarts:
                sessions = platform.calls["since"]
                platform.cut()
                await platform.until(lambda: platform.calls["since"] > sessions, "it reads back again")
            await setup.adapter.caught_up.wait()
            await team.asks("ben", "after", at=minutes_ago(1))
            assert setup.engine.questions() == ["first", "second", "after"]
        async with run_service(tmp_path, platform) as setup:
            await setup.adapter.caught_up.wait()
            assert setup.engine.questions() == []
        assert rows(tmp_path / "state", "SELECT 1 FROM turns WHERE text = 'refused'") == []


@pytest.mark.fault(32)
async def test_a_refusal_that_cannot_be_stored_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> bool:
        raise StorageError("The disk is full.")

    async with ScriptedPlatform(redelivers=False) as platform:
        team = await after_one_message(tmp_path, platform)
        async with run_service(tmp_path, platform, queue_size=1) as setup:
            await setup.adapter.caught_up.wait()
            with monkeypatch.context() as patched:
                patched.setattr(Inbox, "refuse", full)
                number = await is_refused(team, "not refused")
                await platform.until(lambda: number in platform.errors, "it could not be stored")
            await platform.gates.open("first/0")
            await team.reply_to("second")
            platform.cut()
            assert (await team.reply_to("not refused")).text == "You said: not refused"


@pytest.mark.fault(32)
async def test_a_refused_message_that_is_delivered_again_is_refused_again(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        async with run_service(tmp_path, platform, queue_size=1) as setup:
            number = await is_refused(setup.team)
            assert isinstance(await platform.outcome(number), Refused)
            assert isinstance(await platform.deliver_again(number), Refused)
            await platform.gates.open("first/0")
            await setup.team.reply_to("second")
            assert isinstance(await platform.deliver_again(number), Refused)
        for known in (5000, 0):  # from memory, and from storage
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("bot.conversations.conversations.KNOWN", known)
                async with run_service(tmp_path, platform) as setup:
                    assert isinstance(await platform.deliver_again(number), Refused)
                    assert setup.engine.questions() == []


async def test_what_is_said_to_others_is_heard_and_not_answered(tmp_path: Path) -> None:
    async with ScriptedPlatform(redelivers=False) as platform, run_service(tmp_path, platform) as setup:
        await setup.adapter.caught_up.wait()
        core = setup.adapter.core
        assert core is not None
        event = IncomingMessage(setup.team.key, "1", person("ana"), "hi Ben", time.time(), addressed=False)
        assert await core.handle(event) == Accepted()
        assert not await core.following(setup.team.key)
        await setup.team.asks("ana", "hello")
        assert await core.following(setup.team.key)
        assert setup.engine.questions() == ["hello"]


async def test_a_thread_is_followed_without_another_mention(setup: ServiceSetup, team: Team) -> None:
    thread, core = team.elsewhere(thread="thread"), setup.adapter.core
    assert core is not None
    stranger = IncomingMessage(thread.key, "1", person("ben"), "by the way", 1.0, addressed=False)
    assert await core.handle(stranger) == Accepted()
    await thread.asks("ana", "hello")
    thread.asked["and now?"] = "2"
    next_one = IncomingMessage(thread.key, "2", person("ben"), "and now?", 20.0, addressed=False)
    assert await core.handle(next_one) != Accepted()
    await thread.reply_to("and now?")
    assert setup.engine.questions() == ["hello", "and now?"]


async def test_the_presence_tells_model_speed_and_waiters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.core.presence.WATCH_S", 0.01)
    async with ScriptedPlatform() as platform:
        platform.gates.hold("half small")
        async with run_service(tmp_path, platform, ready=False) as setup:
            await platform.gates.reached("half small")
            await platform.connected()
            core = setup.adapter.core
            assert core is not None
            assert core.presence() == "loading small, 50%"
            await platform.gates.open("half small")
            await platform.until(lambda: core.presence() == "small", "it is loaded")
            platform.gates.hold("first/1")
            for text in ("first", "second", "third"):
                await setup.team.says("ana", text)
            await platform.until(lambda: core.presence() == "small · 22 tokens/s · 2 waiting", core.presence())
            await platform.gates.open("first/1")
            await setup.team.reply_to("third")
            setup.engine.deadly["small"] = 1
            setup.engine.answers("fatal", "dies here", dies_at=0, deaths=1)
            platform.gates.hold("load small")
            await setup.team.says("ana", "fatal")
            await platform.until(lambda: core.presence().startswith("loading small"), "it is loaded again")
            await platform.gates.open("load small")
            await setup.team.reply_to("fatal")


@pytest.mark.fault(12)
@pytest.mark.parametrize("platforms", [1, 2])
async def test_a_token_that_is_refused_at_the_start_ends_everything(tmp_path: Path, platforms: int) -> None:
    async with ScriptedPlatform() as platform:
        adapters = [ScriptedAdapter(platform.port, "first", refusal="The token is wrong; set another one.")]
        adapters += [ScriptedAdapter(platform.port, "second")][: platforms - 1]
        settings = make_settings(tmp_path)
        service = Service(settings, Catalog.of(settings), adapters, ScriptedEngine(platform.gates.passing))
        with pytest.raises(ConfigError, match="The token is wrong"):
            await service.run()


@pytest.mark.fault(12)
async def test_a_token_that_is_revoked_later_ends_its_platform_and_with_the_last_one_everything(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        first, second = ScriptedAdapter(platform.port, "scripted"), ScriptedAdapter(platform.port, "second")
        settings = make_settings(tmp_path)
        service = Service(settings, Catalog.of(settings), [first, second], ScriptedEngine(platform.gates.passing))
        running = asyncio.create_task(service.run())
        await first.caught_up.wait()
        await second.caught_up.wait()
        second.is_refused("The token was revoked.")
        assert (await Team.of(platform).asks("ana", "hello")).text == "You said: hello"
        first.is_refused("This token was revoked, too.")
        with pytest.raises(ConfigError, match="This token was revoked, too"):
            await running
