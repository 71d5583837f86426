"""Tests hosts with different models: a question is answered by a host that has its model, as long as one is alive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bot.types.messages import Notice
from tests.support.builders.hosts import TwoHosts, channel_of, run_host
from tests.support.fakes.scripted_platform import ScriptedPlatform

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]


@pytest.fixture(autouse=True)
def _list_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.models.installed_models.LIST_EVERY_S", 0.05)


@asynccontextmanager
async def unequal_hosts(root: Path, lacks: str) -> AsyncIterator[TwoHosts]:
    """Two hosts; the second one has no model `large`: in its catalog, or on its disk."""
    of_second = "small" if lacks == "catalog" else "small,large"
    async with (
        ScriptedPlatform() as platform,
        run_host(root, "first", platform, models="small,large") as first,
        run_host(root, "second", platform, models=of_second) as second,
    ):
        (root / "second" / "models" / "large" / "model.safetensors").unlink()
        hosts = TwoHosts(first, second)
        await hosts.acquainted(2)
        await platform.until(lambda: second.live_state.installed_models.usable == ("small",), "'large' is missed")
        await platform.until(lambda: "large" in second.live_state.current.elsewhere, "the first one has it")
        await platform.until(lambda: first.live_state.current.elsewhere == {"small"}, "the second one has not")
        yield hosts


@pytest.mark.parametrize("lacks", ["catalog", "disk"])
async def test_a_question_goes_to_the_host_that_has_its_model(tmp_path: Path, lacks: str) -> None:
    async with unequal_hosts(tmp_path, lacks) as hosts:
        team = channel_of(hosts.tells(hosts.second), "one")
        assert "- large · on another host" in await team.told("model")
        assert await team.command("model", "large") == Notice("large answers here now.")
        assert "- model: large (set here)" in await team.told("settings")
        for question in ("one", "two", "three"):
            assert (await team.asks("ana", question)).text == f"You said: {question}"
        assert [model for model, _ in hosts.first.engine.asked] == ["large"] * 3
        assert hosts.second.engine.asked == []
        assert hosts.second.engine.loads == ["small"]
        await channel_of(hosts.team, "two").asks("ben", "four")
        assert hosts.answered()["four"] == 1


@pytest.mark.parametrize("lacks", ["catalog", "disk"])
async def test_without_a_host_that_has_its_model_another_one_answers_and_says_so(tmp_path: Path, lacks: str) -> None:
    async with unequal_hosts(tmp_path, lacks) as hosts:
        hosts.platform.gates.hold("busy/1")
        team = channel_of(hosts.tells(hosts.second), "one")
        await team.command("model", "large")
        await channel_of(hosts.team, "busy").command("model", "large")
        await channel_of(hosts.team, "busy").says("ben", "busy")
        await hosts.platform.gates.reached("busy/1")
        await team.says("ana", "hello")  # waits for the first host
        await team.sees("hello", "1st in line")
        hosts.first.service.stop()
        hosts.first.service.stop()
        await hosts.first.running
        await hosts.platform.gates.open("busy/1")
        for question, channel in (("busy", channel_of(hosts.team, "busy")), ("hello", team)):
            answer = await channel.reply_to(question)
            assert answer.text.endswith(f"You said: {question}")
            assert "small answers instead" in answer.text
            assert len(hosts.posts(question)) == 1
