"""Kills a model's servers while people talk to the service, and judges all answers at the end."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

import pytest

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.messages import FinishReason, Reply
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.fakes.openai.server_process import ServerProcess
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.real_servers.servers import RealServer

MODEL = "org/Model-7B"
CONVERSATIONS = 16
WORDS = 20
PACE_S = 0.05
DOWN_S = 0.3
ANSWER_S = 600.0
ANSWER_TOKENS = 24
ROUGHLY = 3
"""Tokens by which the text of a whole answer may differ from what its server counted: not every cut of a text into
tokens is the one that its tokenizer makes."""


class KillableServer(Protocol):
    """A server that can be killed, and started again at the same address."""

    @property
    def url(self) -> str: ...
    async def start(self) -> None: ...
    async def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RealKillable:
    """A real server that can be killed."""

    server: RealServer

    @property
    def url(self) -> str:
        """The API's base."""
        return self.server.url

    async def start(self) -> None:
        """Starts it at the same address."""
        await asyncio.to_thread(self.server.start)

    async def kill(self) -> None:
        """Sends SIGKILL."""
        await asyncio.to_thread(self.server.kill)


@dataclass(frozen=True, slots=True)
class Load:
    """What people ask, and what is right. questions: of each conversation; None: until `seconds` are over.

    ask: the text of a conversation's next question, by their numbers; each is different. whole: whether a reply is the
    whole answer to the question with this text.
    """

    model: str
    ask: Callable[[int, int], str]
    whole: Callable[[str, Reply, str], Awaitable[bool]]
    questions: int | None = None
    seconds: float = 0.0
    every_s: float = 1.0
    patience_s: float = 20.0
    settings: dict[str, Any] = field(default_factory=dict)  # Any: values of settings


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
    """Ask `questions` in each of 16 conversations while one of two fake servers is killed about every `every_s`."""
    one, two = (
        ServerProcess(kind="vllm", models={MODEL: 8192}, pace_s=PACE_S, slots=2 * CONVERSATIONS) for _ in range(2)
    )
    async with one, two:
        load = Load(MODEL, _words, _is_echo, questions, every_s=every_s)
        return await kill_under_load(root, (one, two), load, chance)


async def kill_real_servers(
    root: Path, servers: tuple[RealServer, RealServer], seconds: float, every_s: float, chance: Random
) -> Tally:
    """Ask in 16 conversations for `seconds` while one of two real llama.cpp servers is killed."""

    async def whole(question: str, reply: Reply, text: str) -> bool:
        if reply.usage is None or reply.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return False
        text = text.removeprefix("```\n").removesuffix("\n```")  # a busy machine shows some answers as plain text
        body = {"content": text, "add_special": False, "parse_special": False}
        counted = len((await asyncio.to_thread(servers[0].ask, "/tokenize", body))["tokens"])
        ends = reply.finish_reason is FinishReason.STOP  # its last token is not shown
        return bool(text) and abs(reply.usage.generated_tokens - ends - counted) <= ROUGHLY

    settings = {
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": ANSWER_TOKENS,
        "system_prompt": "Be brief.",
    }
    load = Load(
        servers[0].model, _story, whole, seconds=seconds, every_s=every_s, patience_s=ANSWER_S, settings=settings
    )
    return await kill_under_load(root, (RealKillable(servers[0]), RealKillable(servers[1])), load, chance)


async def kill_under_load(
    root: Path, servers: tuple[KillableServer, KillableServer], load: Load, chance: Random
) -> Tally:
    """Ask in 16 conversations while one of two servers is killed about every `load.every_s` seconds."""
    urls = [server.url for server in servers]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("INHOUSE_ENGINE", "openai")
        patched.setenv("INHOUSE_ENGINE_URLS", ",".join(urls))
        engine = RemoteEngine(urls)
        more: dict[str, Any] = {"ready": False, "model": load.model, "models": "", **load.settings}
        async with run_service(root, engine=cast(ScriptedEngine, engine), **more) as setup:
            setup.platform.patience_s = load.patience_s
            await setup.platform.connected()
            kills: list[KillableServer] = []
            killing = asyncio.create_task(_kill(servers, load.every_s, chance, kills))
            talks = [_talk(setup, number, load) for number in range(CONVERSATIONS)]
            asked = {text: question for each in await asyncio.gather(*talks) for text, question in each.items()}
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            failures = sum(server.failures for server in engine.pool.servers)
            return await _judge(setup, asked, len(kills), failures, load)


async def _kill(
    servers: tuple[KillableServer, KillableServer], every_s: float, chance: Random, kills: list[KillableServer]
) -> None:
    while True:
        await asyncio.sleep(every_s * chance.uniform(0.5, 1.5))
        server = chance.choice(servers)
        kills.append(server)
        await server.kill()
        await asyncio.sleep(DOWN_S)
        await server.start()


async def _talk(setup: ServiceSetup, number: int, load: Load) -> dict[str, str]:
    """One conversation; the texts of its questions by their ids."""
    team = setup.team.elsewhere(channel=f"channel-{number}")
    loop = asyncio.get_running_loop()
    until, asked = loop.time() + load.seconds, dict[str, str]()
    while len(asked) < load.questions if load.questions is not None else loop.time() < until:
        text = load.ask(number, len(asked))
        await team.says(f"user-{number}", text)
        asked[team.asked[text]] = text
        await team.reply_to(text)
    return asked


def _words(conversation: int, question: int) -> str:
    return " ".join(f"q{conversation}-{question}-{word}" for word in range(WORDS))


def _story(conversation: int, question: int) -> str:
    return f"Tell part {question + 1} of story {conversation}."


async def _is_echo(question: str, reply: Reply, text: str) -> bool:
    return text == f"You said: {question}"


async def _judge(setup: ServiceSetup, asked: dict[str, str], kills: int, failures: int, load: Load) -> Tally:
    shown = [post for post in setup.platform.posted if not post.deleted]
    counts = Counter(post.reply.question_id for post in shown)
    errors = sum(post.reply.finish_reason is FinishReason.ERROR for post in shown)
    whole = [await load.whole(asked.get(post.reply.question_id, ""), post.reply, post.text) for post in shown]
    lost = sum(not counts[question] for question in asked)
    double = sum(counts[question] > 1 for question in counts)
    return Tally(len(asked), kills, failures, lost, double, len(shown) - sum(whole) - errors, errors)
