"""Tests two hosts that serve at once on one PostgreSQL server: one fails, or is asked about an answer of the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.crash.test_kills import BOTH, sound
from tests.support.builders.databases import CHOSEN
from tests.support.crash.platforms import Asked, DiscordDriver, SlackDriver
from tests.support.crash.several_hosts import ROLES, CrashHosts, run_hosts
from tests.support.crash.verdict import signatures
from tests.support.fakes.discord import Message

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]

LEASE_S = 3.0
WORDS = 60
DIRECT = 2
"""Slack's direct messages, one conversation."""


@pytest.fixture
async def hosts(each_database: None, tmp_path: Path) -> AsyncIterator[CrashHosts]:
    """Two hosts that do everything."""
    roles = {"first": ROLES, "second": ROLES}
    async with run_hosts(tmp_path, *BOTH, roles=roles, lease_s=LEASE_S) as hosts:
        yield hosts


@pytest.fixture
async def divided(each_database: None, tmp_path: Path) -> AsyncIterator[CrashHosts]:
    """A host that receives all events, and one that writes all answers."""
    roles = {"listener": "adapters,web", "writer": "worker"}
    async with run_hosts(tmp_path, "discord", roles=roles, step_s=0.3) as hosts:
        yield hosts


def discord(hosts: CrashHosts) -> DiscordDriver:
    driver = hosts.drivers["discord"]
    assert isinstance(driver, DiscordDriver)
    return driver


def answer(hosts: CrashHosts) -> Message:
    """The only message of the bot on Discord."""
    (message,) = discord(hosts).places[0].messages
    return message


def messages(hosts: CrashHosts, platform: str, asked: Asked) -> int:
    """The number of messages that answer a question."""
    return sum(said.question == asked.message_id for said in hosts.drivers[platform].said())


@pytest.mark.fault(35)
async def test_the_answers_of_a_killed_host_go_on_in_the_same_messages(hosts: CrashHosts) -> None:
    asked = {platform: await hosts.setup.ask(platform, words=WORDS) for platform in BOTH}
    killed = await hosts.begun(asked["slack"])
    await hosts.begun(asked["discord"])
    await killed.setup.kill()
    other = hosts.besides(killed)
    setup = await hosts.last(other)
    for platform, each in asked.items():
        assert hosts.writer(each) is other
        assert messages(hosts, platform, each) == 1
    assert await sound(setup) == (2, 0)


async def test_a_host_that_is_cut_off_from_the_database_writes_no_more_and_the_other_finishes(
    hosts: CrashHosts,
) -> None:
    asked = await hosts.setup.ask("slack", words=WORDS)
    cut_off = await hosts.begun(asked)
    await cut_off.relay.cut()
    other = hosts.besides(cut_off)
    await hosts.setup.until(lambda: hosts.writer(asked) is other, "the other one writes")
    driver = hosts.drivers["slack"]
    assert isinstance(driver, SlackDriver)
    await hosts.setup.until(lambda: len(driver.server.sockets.sockets) == 1, "Slack sends it no more events")
    later = await hosts.setup.ask("slack", who=1)
    assert await hosts.begun(later) is other
    await cut_off.relay.start()
    assert await cut_off.setup.status() == 1  # systemd starts it again
    setup = await hosts.last(other)
    calls = [name for call in driver.server.calls for _, name in sorted(signatures(json.dumps(call.arguments)))]
    assert cut_off.name not in calls[calls.index(other.name) :]
    assert messages(hosts, "slack", asked) == 1
    assert await sound(setup) == (2, 0)


async def test_three_questions_of_a_conversation_are_answered_in_order_whichever_host_receives_them(
    hosts: CrashHosts,
) -> None:
    for number in range(1, 4):
        await hosts.setup.ask("slack", where=DIRECT, words=WORDS)
        await hosts.setup.until(lambda number=number: stored(hosts) == number, "it is stored")  # type: ignore[misc]
    setup = await hosts.last()
    driver = hosts.drivers["slack"]
    assert isinstance(driver, SlackDriver)
    assert len({delivery.socket for delivery in driver.server.deliveries}) == len(hosts)
    ended = [message_id for (message_id,) in hosts.rows("SELECT message_id FROM requests ORDER BY finished_at")]
    assert ended == [asked.message_id for asked in hosts.setup.asked]
    assert await sound(setup) == (3, 0)


def stored(hosts: CrashHosts) -> int:
    return len(hosts.rows("SELECT id FROM requests"))


async def test_a_database_that_restarts_costs_no_answer(hosts: CrashHosts) -> None:
    for platform in BOTH:
        await hosts.begun(await hosts.setup.ask(platform, words=WORDS))
    assert CHOSEN.server is not None
    CHOSEN.server.stop()
    await asyncio.sleep(0.5)
    CHOSEN.server.start()  # on this thread, with which the server ends
    await hosts.setup.ask("slack", who=1)
    setup = await hosts.last()
    assert await sound(setup) == (3, 0)


async def test_stop_is_pressed_on_one_host_for_an_answer_that_the_other_writes(divided: CrashHosts) -> None:
    asked = await divided.setup.ask("discord", words=WORDS)
    assert await divided.begun(asked) is divided["writer"]
    await discord(divided).people[0].clicks(answer(divided), "Stop")
    await divided.setup.until(lambda: "Continue" in str(answer(divided).buttons), "it is stopped")
    assert f"q0-{WORDS - 1}" not in answer(divided).content
    assert divided.rows("SELECT status, finish_reason FROM requests") == [("cancelled", "abort")]


async def test_forget_on_one_host_ends_the_answer_that_the_other_writes_and_stores_none(divided: CrashHosts) -> None:
    await divided.begun(await divided.setup.ask("discord", words=WORDS))
    shown = await discord(divided).people[0].slash("forget", channel=discord(divided).places[0])
    await divided.setup.until(lambda: "Deleted 1 stored message" in shown.text, "it is deleted")
    await divided.setup.until(lambda: divided.rows("SELECT status FROM requests") == [("cancelled",)], "it has ended")
    assert divided.rows("SELECT text FROM turns") == []
