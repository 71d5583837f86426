"""Tests hosts that are restarted in turn under load: each question is answered once, in order, in one message."""

import asyncio
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from random import Random

import pytest

from tests.support.builders.databases import CHOSEN
from tests.support.builders.hosts import channel_of, run_host
from tests.support.builders.storage_rows import rows
from tests.support.fakes.database_relay import DatabaseRelay
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]

CHANNELS, RESTARTS, CUTS = 4, 4, 8


async def keep_asking(team: Team, chance: Random, stop: asyncio.Event, asked: list[str]) -> None:
    """Asks in random channels until told to stop."""
    for number in count():
        if stop.is_set():
            return
        question = f"question {number} in {chance.randrange(CHANNELS)}"
        asked.append(question)
        await channel_of(team, question.split()[-1]).sends(f"person-{chance.randrange(6)}", question)
        await asyncio.sleep(chance.random() * 0.1)


@pytest.mark.fault(63)
@pytest.mark.parametrize("seed", [1, 2])
async def test_restarts_in_turn_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    chance, stop, asked = Random(seed), asyncio.Event(), list[str]()
    async with ScriptedPlatform() as platform, AsyncExitStack() as last:
        team = Team.of(platform)
        stacks = [AsyncExitStack(), AsyncExitStack()]
        hosts = [
            await stack.enter_async_context(run_host(tmp_path, name, platform, drain=0.1, per_user=50))
            for name, stack in zip("ab", stacks, strict=True)
        ]
        asking = asyncio.create_task(keep_asking(team, chance, stop, asked))
        for number in range(RESTARTS):
            await asyncio.sleep(chance.random() * 0.5)
            which = number % 2
            await hosts[which].stop()
            await stacks[which].aclose()
            await asyncio.sleep(chance.random() * 0.2)
            hosts[which] = await stacks[which].enter_async_context(
                run_host(tmp_path, "ab"[which], platform, drain=0.1, per_user=50)
            )
        for stack in stacks:
            last.push_async_exit(stack)
        stop.set()
        await asking
        await all_answered(platform, team, asked)
        check_rows(tmp_path)


@pytest.mark.fault(65)
@pytest.mark.parametrize("seed", [1])
async def test_a_host_that_loses_its_database_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path, relay: DatabaseRelay, seed: int
) -> None:
    chance, stop, asked = Random(seed), asyncio.Event(), list[str]()
    url = CHOSEN.url(tmp_path)
    assert url is not None
    async with (
        ScriptedPlatform() as platform,
        run_host(tmp_path, "a", platform, per_user=50, database_url=relay.url(url)),
        run_host(tmp_path, "b", platform, per_user=50),
    ):
        team = Team.of(platform)
        asking = asyncio.create_task(keep_asking(team, chance, stop, asked))
        for _ in range(CUTS):
            await asyncio.sleep(chance.random() * 0.4)
            if chance.random() < 0.5:
                relay.lose_commit(chance.choice(["request", "answer"]))
            else:
                await relay.cut()
                await asyncio.sleep(chance.random() * 0.3)
                await relay.start()
        stop.set()
        await asking
        await all_answered(platform, team, asked)
        check_rows(tmp_path)


async def all_answered(platform: ScriptedPlatform, team: Team, asked: list[str]) -> None:
    """Waits for the answer to each question, which must be one message."""
    for question in asked:
        answer = await channel_of(team, question.split()[-1]).reply_to(question)
        assert answer.text == f"You said: {question}"
    assert len(platform.posted) == len(asked)


def check_rows(root: Path) -> None:
    """Everything ended in order, and nothing counts as killed."""
    assert rows(root, "SELECT count(*) FROM requests WHERE status <> 'finished'") == [(0,)]
    counts = "SELECT max(service_runs) AS runs, max(attempts) AS attempts FROM requests"
    assert rows(root, counts) == [(1, 0)]
    ended = "SELECT channel, id, finished_at FROM requests ORDER BY channel, finished_at"
    order = [(channel, number) for channel, number, _ in rows(root, ended)]
    assert order == sorted(order)
