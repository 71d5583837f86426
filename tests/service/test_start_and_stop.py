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
from tests.support.builders.service import MACHINE, House, make_settings, open_house
from tests.support.builders.storage_rows import rows
from tests.support.fakes.engine import ScriptedEngine
from tests.support.fakes.platform import ScriptedAdapter
from tests.support.fakes.team import Team
from tests.support.fakes.world import World

pytest_plugins = ["tests.support.fixtures.service"]


@pytest.mark.fault(34)
async def test_running_answers_are_finished_before_the_end(house: House, team: Team) -> None:
    house.world.gates.hold("hello/1")
    await team.says("ana", "hello")
    await team.sees("hello", "You")
    house.service.stop()
    await house.world.gates.open("hello/1")
    assert (await team.reply_to("hello")).text == "You said: hello"
    await house.stop()
    assert house.engine.closed


@pytest.mark.fault(34)
async def test_a_second_stop_ends_at_once_and_the_next_start_goes_on(tmp_path: Path) -> None:
    async with World() as world:
        world.gates.hold("hello/1")
        async with open_house(tmp_path, world, drain=600) as house:
            await house.team.says("ana", "hello")
            message = await house.team.sees("hello", "You")
            asked = dict(house.team.asked)
            house.service.stop()
            await house.stop()
        assert rows(house.settings.state_dir, "SELECT status, attempts FROM requests") == [("waiting", 0)]
        await world.gates.open("hello/1")
        async with open_house(tmp_path, world) as house:
            house.team.asked.update(asked)
            answer = await house.team.reply_to("hello")
            assert answer.parts == (message,)
            assert answer.text == "You said: hello"


async def test_a_disk_that_is_full_at_the_end_costs_no_question(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with World() as world:
        world.gates.hold("hello/1")
        async with open_house(tmp_path, world, drain=0) as house:
            team = house.team
            await team.says("ana", "hello")
            await team.sees("hello", "You")
            for question in ("one", "two"):
                await team.says("ben", question)
            with patch("bot.storage.inbox.Inbox.hand_back", side_effect=StorageError("The disk is full.")):
                await house.stop()
        assert caplog.text.count("could not be stored for the next start: The disk is full.") == 3
        await world.gates.open("hello/1")
        async with open_house(tmp_path, world):
            for question in ("hello", "one", "two"):
                assert (await team.reply_to(question)).text == f"You said: {question}"


async def test_settings_and_history_are_there_after_a_restart(tmp_path: Path) -> None:
    async with World() as world:
        async with open_house(tmp_path, world) as house:
            await house.team.command("temperature", "0.1")
            await house.team.asks("ana", "hello")
            team = house.team
        async with open_house(tmp_path, world) as house:
            assert await team.told("temperature") == "temperature is 0.1 here."
            await team.asks("ana", "again")
            read = [turn.text for turn in house.engine.prompt_of("again").prompt.turns]
            assert read == ["hello", "You said: hello", "again"]


async def test_what_a_platform_is_owed_that_is_not_served_now_stays_owed(tmp_path: Path) -> None:
    async with World() as world:
        world.gates.hold("load small")
        async with open_house(tmp_path, world, ready=False) as house:
            await house.team.says("ana", "hello")
            team = house.team
        await world.gates.open("load small")
        async with serving(tmp_path, ScriptedAdapter(world.port, "another")):
            await world.connected()
            await asyncio.sleep(0.05)
        assert world.posted == []
        async with open_house(tmp_path, world):
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
    async with World() as world:
        engine = ScriptedEngine(world.gates.passing)
        engine.bad["small"] = "The weights of small are damaged; fetch it again."
        async with open_house(tmp_path, world, engine=engine, ready=False) as house:
            with pytest.raises(ConfigError, match="The weights of small are damaged"):
                await house.running
        assert engine.closed


async def test_a_default_model_that_is_not_there_ends_the_start_with_the_way_to_get_it(tmp_path: Path) -> None:
    async with World() as world, serving(tmp_path, ScriptedAdapter(world.port)) as running:
        (tmp_path / "models" / "small" / "config.json").unlink()
        with pytest.raises(ConfigError, match="run `inhouse pull small`"):
            await running


@pytest.mark.fault(15)
async def test_a_second_instance_is_refused_and_the_first_goes_on(house: House, team: Team) -> None:
    async with open_house(house.settings.state_dir.parent, ready=False) as second:
        with pytest.raises(StateLocked, match="in use by another Inhouse"):
            await second.running
    assert (await team.asks("ana", "hello")).text == "You said: hello"
    assert isinstance(await team.command("help"), Notice)
