"""Tests start and stop of the service: second instances, invalid tokens, models, drains, and the next start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from bot.models.catalog import Catalog
from bot.service.service import Service
from bot.types.errors import ConfigError, StateLocked, StorageError
from bot.types.messages import Notice
from tests.support.builders.service import MACHINE, ServiceSetup, make_settings, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


@pytest.mark.fault(34)
async def test_running_answers_are_finished_before_the_end(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    await team.sees("hello", "You")
    setup.service.stop()
    await setup.platform.gates.open("hello/1")
    assert (await team.reply_to("hello")).text == "You said: hello"
    await setup.stop()
    assert setup.engine.closed


@pytest.mark.fault(34)
async def test_a_second_stop_ends_at_once_and_the_next_start_goes_on(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        platform.gates.hold("hello/1")
        async with run_service(tmp_path, platform, drain=600) as setup:
            await setup.team.says("ana", "hello")
            message = await setup.team.sees("hello", "You")
            asked = dict(setup.team.asked)
            setup.service.stop()
            await setup.stop()
        assert rows(setup.settings.state_dir, "SELECT status, attempts FROM requests") == [("waiting", 0)]
        await platform.gates.open("hello/1")
        async with run_service(tmp_path, platform) as setup:
            setup.team.asked.update(asked)
            answer = await setup.team.reply_to("hello")
            assert answer.parts == (message,)
            assert answer.text == "You said: hello"


async def test_a_disk_that_is_full_at_the_end_costs_no_question(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedPlatform() as platform:
        platform.gates.hold("hello/1")
        async with run_service(tmp_path, platform, drain=0) as setup:
            team = setup.team
            await team.says("ana", "hello")
            await team.sees("hello", "You")
            for question in ("one", "two"):
                await team.says("ben", question)
            with patch("bot.storage.inbox.Inbox.hand_back", side_effect=StorageError("The disk is full.")):
                await setup.stop()
        (line,) = [line for line in caplog.messages if "could not be stored for the next start" in line]
        assert line.startswith("What is left of the time of 3 questions ")
        await platform.gates.open("hello/1")
        async with run_service(tmp_path, platform):
            for question in ("hello", "one", "two"):
                assert (await team.reply_to(question)).text == f"You said: {question}"


async def test_settings_and_history_are_there_after_a_restart(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        async with run_service(tmp_path, platform) as setup:
            await setup.team.command("temperature", "0.1")
            await setup.team.asks("ana", "hello")
            team = setup.team
        async with run_service(tmp_path, platform) as setup:
            assert await team.told("temperature") == "temperature is 0.1 here."
            await team.asks("ana", "again")
            read = [turn.text for turn in setup.engine.prompt_of("again").prompt.turns]
            assert read == ["hello", "You said: hello", "again"]


async def test_what_a_platform_is_owed_that_is_not_served_now_stays_owed(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        platform.gates.hold("load small")
        async with run_service(tmp_path, platform, ready=False) as setup:
            await setup.team.says("ana", "hello")
            team = setup.team
        await platform.gates.open("load small")
        async with serving(tmp_path, ScriptedAdapter(platform.port, "another")):
            await platform.connected()
            await asyncio.sleep(0.05)
        assert platform.posted == []
        async with run_service(tmp_path, platform):
            assert (await team.reply_to("hello")).text == "You said: hello"


@asynccontextmanager
async def serving(root: Path, *adapters: ScriptedAdapter) -> AsyncIterator["asyncio.Task[None]"]:
    """Runs a service with these adapters; its task, which is stopped at the end."""

    async def at_once(_: str) -> None:
        return

    settings = make_settings(root)
    service = Service(settings, Catalog.of(settings), adapters, ScriptedEngine(at_once))
    with patch("bot.models.installed_models.probe", return_value=MACHINE):
        running = asyncio.create_task(service.run())
        try:
            yield running
        finally:
            service.stop()
            await asyncio.wait([running])


async def test_a_default_model_that_does_not_load_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        engine = ScriptedEngine(platform.gates.passing)
        engine.bad["small"] = "The weights of small are damaged; fetch it again."
        async with run_service(tmp_path, platform, engine=engine, ready=False) as setup:
            with pytest.raises(ConfigError, match="The weights of small are damaged"):
                await setup.running
        assert engine.closed


async def test_a_default_model_that_is_not_there_ends_the_start_with_the_way_to_get_it(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        adapter = ScriptedAdapter(platform.port)
        async with serving(tmp_path, adapter) as running:
            (tmp_path / "models" / "small" / "config.json").unlink()
            with pytest.raises(ConfigError, match="run `inhouse pull small`"):
                await running
        assert adapter.core is None, "it logged in to the platform before it looked for the model"


@pytest.mark.fault(15)
async def test_a_second_instance_is_refused_and_the_first_goes_on(setup: ServiceSetup, team: Team) -> None:
    async with run_service(setup.settings.state_dir.parent, ready=False) as second:
        with pytest.raises(StateLocked, match="in use by another Inhouse"):
            await second.running
    assert (await team.asks("ana", "hello")).text == "You said: hello"
    assert isinstance(await team.command("help"), Notice)
