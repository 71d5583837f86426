"""Tests buttons and settings that reach another host than the one that wrote the answer, or both at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.storage import Storage
from bot.types.errors import STILL_WRITTEN
from bot.types.messages import Accepted, ActionKind, IncomingAction, Notice, Refused
from tests.support.builders.hosts import TwoHosts, ask_and_hold, channel_of, run_two_hosts
from tests.support.builders.storage_rows import rows
from tests.support.fakes.team import person

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]


@pytest.fixture
async def hosts(each_database: None, tmp_path: Path) -> AsyncIterator[TwoHosts]:
    """Two hosts that write one answer at a time."""
    async with run_two_hosts(tmp_path) as hosts:
        yield hosts


@pytest.mark.fault(67)
async def test_a_button_that_is_pressed_twice_makes_one_answer_whichever_hosts_get_the_presses(hosts: TwoHosts) -> None:
    team = channel_of(hosts.team, "one")
    post = (await team.asks("ana", "one")).first
    hosts.platform.gates.hold("one/1")
    presses = [
        each.adapter.core.handle(
            IncomingAction(team.key, f"press-{number}", person("ana"), post.reply.reply_id, ActionKind.REGENERATE)
        )
        for number, each in enumerate((hosts.first, hosts.second, hosts.first, hosts.second))
        if each.adapter.core is not None
    ]
    outcomes = await asyncio.gather(*presses)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Accepted", *["Refused"] * 3]
    assert {outcome for outcome in outcomes if isinstance(outcome, Refused)} == {Refused(STILL_WRITTEN)}
    await hosts.platform.gates.open("one/1")
    await team.reply_to("one", 2)
    assert hosts.answered() == {"one": 2}


async def test_an_answer_that_has_just_ended_on_another_host_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "on_wake", lambda *_: None)  # a host knows within a second what the other one did
    async with run_two_hosts(tmp_path) as hosts:
        hosts.tells(hosts.first)
        await ask_and_hold(hosts, "one")
        team, queue = channel_of(hosts.team, "one"), hosts.second.live_state.queue
        await hosts.platform.until(lambda: bool(queue.of_conversation(team.key)), "the other host knows of it")
        await hosts.platform.gates.open("one/1")
        post = (await team.reply_to("one")).first
        hosts.tells(hosts.second)
        assert isinstance(await team.presses(post, ActionKind.REGENERATE, who="person-one-0"), Accepted)
        await team.reply_to("one", 2)


async def test_buttons_and_settings_count_on_each_host(hosts: TwoHosts, tmp_path: Path) -> None:
    team = channel_of(hosts.tells(hosts.first), "one")
    post = (await team.asks("ana", "one")).first
    (other,) = [each for each in (hosts.first, hosts.second) if not each.engine.asked]
    hosts.tells(other)
    assert await team.presses(post, ActionKind.GOOD) == Notice("Thank you, noted.")
    assert rows(tmp_path, "SELECT good FROM ratings") == [(True,)]
    assert (await team.told("model", "large")).startswith("large answers here now.")
    hosts.tells(hosts.first if other is hosts.second else hosts.second)
    assert isinstance(await team.presses(post, ActionKind.REGENERATE), Accepted)
    await team.reply_to("one", 2)
    models = [model for each in (hosts.first, hosts.second) for model, _ in each.engine.asked]
    assert sorted(models) == ["large", "small"]
