"""Runs the service of the crash test in a separate process that kills itself at a given point.

The service and its adapters are real. The engine is scripted: it answers "q7 40" with forty numbered words, so that a
missing, duplicate or misplaced word is visible. Kill points wrap functions of `bot` and `adapters` from here; the
product code contains no hooks.
"""

import asyncio
import inspect
import multiprocessing
import os
import re
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import alembic.op

import bot.storage.inbox
from adapters.discord.adapter import DiscordAdapter
from adapters.slack.adapter import SlackAdapter
from adapters.slack.outbound.rate_limits import RateLimits
from bot.cli.run import serve
from bot.config.settings import Settings
from bot.observability.logs import setup_logs
from bot.platforms.adapter import Adapter
from bot.service.turns import LeaseTiming
from bot.storage import Cursors, Inbox, Outbox
from bot.types.engine import EngineRequest
from tests.support.builders.discord_adapter import QUICK as QUICK_DISCORD
from tests.support.builders.service import MACHINE, make_settings
from tests.support.builders.slack_adapter import QUICK as QUICK_SLACK
from tests.support.fakes.scripted_engine import Script, ScriptedEngine
from tests.support.fakes.tls import LOOPBACK, Loopback
from tests.support.network_namespaces import enter

STEPS, STEP_S = 20, 0.005
"""Pieces of every answer, and the pause after each in seconds."""
SAVE_S = 0.2
"""Interval in seconds at which cursors are saved in this test."""
BAIT = "@everyone <!channel> @here"
"""Part of every answer; must not ping anyone."""

SEAMS: Mapping[str, tuple[Any, str]] = {  # Any: a class or a module
    "inbox.ask": (Inbox, "ask"),
    "inbox.put": (Inbox, "_put"),  # inside the transaction
    "inbox.start": (Inbox, "start"),
    "inbox.finish": (Inbox, "finish"),
    "inbox.put_final": (bot.storage.inbox, "put_final"),  # inside the transaction
    "inbox.recover": (Inbox, "recover"),
    "inbox.hand_back": (Inbox, "hand_back"),  # during the drain
    "outbox.posting": (Outbox, "posting"),
    "outbox.posted": (Outbox, "posted"),
    "outbox.mark_delivered": (Outbox, "mark_delivered"),
    "cursors.save": (Cursors, "save"),
    "discord.post": (DiscordAdapter, "post"),
    "discord.update": (DiscordAdapter, "update"),
    "discord.find_posted": (DiscordAdapter, "find_posted"),
    "discord.fetch_since": (DiscordAdapter, "fetch_since"),
    "slack.post": (SlackAdapter, "post"),
    "slack.update": (SlackAdapter, "update"),
    "slack.find_posted": (SlackAdapter, "find_posted"),
    "slack.fetch_since": (SlackAdapter, "fetch_since"),
    "migration.create_table": (alembic.op, "create_table"),
}
"""Functions at which a process can be killed: the object that holds the function, and its name."""


HANGS: Mapping[str, str] = {
    "rendering never ends": "bot.replies.renderer.render",
    "the loop is held up": "adapters.slack.outbound.blocks.answer",  # makes a reply's blocks, on the event loop
}
"""Functions that are replaced by one that never returns."""


@dataclass(frozen=True, slots=True)
class Point:
    """Kills the process at call number `times` of a seam: before the call, or after it returned (`after`).

    With `after`, a call that raises does not kill the process; the next one that returns does.
    """

    seam: str
    after: bool = False
    times: int = 1

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.seam} number {self.times}"


@dataclass(frozen=True, slots=True)
class ChildParameters:
    """Settings and faults of one process. `port`, `authority` and `address` are those of a fake Discord.

    answer: the engine's answer to q0. hang: a key of HANGS. lease_s: validity of the claim on a server's database.
    writer: a name that each answer contains, to tell which host wrote it. step_s: the engine's pause after a piece.
    namespace: the id of a process in the network namespace in which it runs; 0 for the parent's.
    """

    root: str
    settings: dict[str, Any]  # Any: values of settings
    port: int
    authority: str
    point: Point | None = None
    answer: str = ""
    hang: str = ""
    lease_s: float = 15.0
    address: str = LOOPBACK
    writer: str = ""
    step_s: float = STEP_S
    namespace: int = 0


class NumberedEngine(ScriptedEngine):
    """Answers "q7 40" with "q7-0 q7-1 ... q7-39" in STEPS pieces, after "(q7 by WRITER)" if it has a `writer`."""

    def __init__(self, answer: str = "", writer: str = "", step_s: float = STEP_S) -> None:
        super().__init__(self._work, max_running=6)
        self._answer, self._writer, self._step_s = answer, writer, step_s  # the answer is q0's

    def _script(self, question: str, request: EngineRequest) -> Script:
        asked = re.fullmatch(r"q(\d+) (\d+)", question)
        assert asked is not None, f"nobody asked {question!r}"
        name, count = asked.groups()
        if name == "0" and self._answer:
            return Script(self._answer.split(" "))
        words = [f"q{name}-{number}" for number in range(int(count))]
        each = -(-len(words) // STEPS)
        first = f"{BAIT} (q{name} by {self._writer})" if self._writer else BAIT
        return Script([first, *(" ".join(words[at : at + each]) for at in range(0, len(words), each))])

    async def _work(self, point: str) -> None:
        if "/" in point:
            await asyncio.sleep(self._step_s)


def live(parameters: ChildParameters) -> None:
    """Serves until SIGTERM or until the kill point of `parameters`. Logs to ROOT/log."""
    if parameters.namespace:
        enter(parameters.namespace)  # first, since it applies to this thread and those that it starts
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    log = os.open(Path(parameters.root) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    settings = make_settings(Path(parameters.root), **parameters.settings)
    setup_logs("info", "text", ())
    print(f"--- {os.getpid()} lives until {parameters.point or 'it is killed'}", file=sys.stderr, flush=True)
    with ExitStack() as patched:
        patched.enter_context(patch("bot.models.installed_models.probe", return_value=MACHINE))
        patched.enter_context(patch("bot.conversations.backfill.SAVE_S", SAVE_S))
        patched.enter_context(patch("bot.storage.postgresql.LEASE_S", parameters.lease_s))
        patched.enter_context(patch("bot.storage.postgresql.RENEW_S", parameters.lease_s / 3))
        timing = partial(LeaseTiming, cut_off=3 * parameters.lease_s)
        patched.enter_context(patch("bot.service.turns.LeaseTiming", timing))
        if parameters.point is not None:
            holder, name = SEAMS[parameters.point.seam]
            patched.enter_context(patch.object(holder, name, deadly(getattr(holder, name), parameters.point)))
        if parameters.hang:
            patched.enter_context(patch(HANGS[parameters.hang], spin))
        engine = NumberedEngine(parameters.answer, parameters.writer, parameters.step_s)
        asyncio.run(serve(settings, adapters_of(settings, parameters), engine, [signal.SIGTERM]))


def adapters_of(settings: Settings, parameters: ChildParameters) -> list[Adapter]:
    """The real adapters, connected to the fakes, with intervals that the fakes' rate limits allow."""
    adapters: list[Adapter] = []
    if settings.discord_bot_token is not None:
        trusted = ssl.create_default_context(cafile=parameters.authority)
        discord = DiscordAdapter(
            settings,
            lambda: aiohttp.TCPConnector(limit=0, resolver=Loopback(parameters.port, parameters.address), ssl=trusted),
            QUICK_DISCORD,
        )
        discord.limits = replace(discord.limits, min_interval_s=0.05)
        adapters.append(discord)
    if settings.slack_bot_token is not None:
        adapters.append(SlackAdapter(settings, QUICK_SLACK, RateLimits(scale=0.01)))
    return adapters


def deadly(original: Callable[..., Any], point: Point) -> Callable[..., Any]:  # Any: arguments of the function
    """Wraps a function so that it kills the process at the point."""
    passed = 0

    def enter() -> bool:
        nonlocal passed
        passed += 1
        if passed == point.times and not point.after:
            _die()
        return passed >= point.times

    if not inspect.iscoroutinefunction(original):

        @wraps(original)
        def plain(*args: Any, **kwargs: Any) -> Any:
            last, result = enter(), original(*args, **kwargs)
            return _die() if last else result

        return plain

    @wraps(original)
    async def waiting(*args: Any, **kwargs: Any) -> Any:
        last, result = enter(), await original(*args, **kwargs)
        return _die() if last else result

    return waiting


def _die_with_the_parent() -> None:
    """Ends this process when the test process exits."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _die()


def spin(*_: object, **__: object) -> Any:  # Any: matches any signature
    """Computes forever and holds the GIL as much as one thread can."""
    while True:
        pass


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
