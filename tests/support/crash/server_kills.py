"""Kills a model's servers while people talk to the service, and judges all answers at the end."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import cast

import pytest

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.messages import FinishReason
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.fakes.openai.server_process import ServerProcess
from tests.support.fakes.scripted_engine import ScriptedEngine

MODEL = "org/Model-7B"
CONVERSATIONS = 16
WORDS = 20
PACE_S = 0.05
DOWN_S = 0.3


@dataclass(slots=True)
class Tally:
    """What happened. lost, double, broken: questions without an answer, with several, with a text that is not whole."""

    questions: int
    kills: int
    failures: int
    lost: int
    double: int
    broken: int
    errors: int


async def kill_servers(root: Path, questions: int, every_s: float, chance: Random) -> Tally:
    """Ask `questions` in each of 16 conversations while one of two servers is killed about every `every_s` seconds."""
    one, two = (
        ServerProcess(kind="vllm", models={MODEL: 8192}, pace_s=PACE_S, slots=2 * CONVERSATIONS) for _ in range(2)
    )
    async with one, two:
        urls = [one.url, two.url]
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("INHOUSE_ENGINE", "openai")
            patched.setenv("INHOUSE_ENGINE_URLS", ",".join(urls))
            engine = RemoteEngine(urls)
            async with run_service(
                root, engine=cast(ScriptedEngine, engine), ready=False, model=MODEL, models=""
            ) as setup:
                await setup.platform.connected()
                kills: list[ServerProcess] = []
                killing = asyncio.create_task(_kill((one, two), every_s, chance, kills))
                talks = [_talk(setup, number, questions) for number in range(CONVERSATIONS)]
                expected = {text: answer for each in await asyncio.gather(*talks) for text, answer in each.items()}
                killing.cancel()
                await asyncio.gather(killing, return_exceptions=True)
                failures = sum(server.failures for server in engine.pool.servers)
                return _judge(setup, expected, len(kills), failures)


async def _kill(
    servers: tuple[ServerProcess, ServerProcess], every_s: float, chance: Random, kills: list[ServerProcess]
) -> None:
    while True:
        await asyncio.sleep(every_s * chance.uniform(0.5, 1.5))
        server = chance.choice(servers)
        kills.append(server)
        await server.kill()
        await asyncio.sleep(DOWN_S)
        await server.start()


async def _talk(setup: ServiceSetup, number: int, questions: int) -> dict[str, str]:
    """One conversation; the expected answers by the ids of the questions."""
    team = setup.team.elsewhere(channel=f"channel-{number}")
    expected = {}
    for count in range(questions):
        text = " ".join(f"q{number}-{count}-{word}" for word in range(WORDS))
        await team.says(f"user-{number}", text)
        expected[team.asked[text]] = f"You said: {text}"
        await team.reply_to(text)
    return expected


def _judge(setup: ServiceSetup, expected: dict[str, str], kills: int, failures: int) -> Tally:
    shown = [post for post in setup.platform.posted if not post.deleted]
    counts = Counter(post.reply.question_id for post in shown)
    errors = sum(post.reply.finish_reason is FinishReason.ERROR for post in shown)
    broken = sum(post.text != expected.get(post.reply.question_id) for post in shown)
    lost = sum(not counts[question] for question in expected)
    double = sum(counts[question] > 1 for question in counts)
    return Tally(len(expected), kills, failures, lost, double, broken - errors, errors)
