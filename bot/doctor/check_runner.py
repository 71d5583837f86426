"""What a check is, and how many of them are made at once.

In: checks, each an asynchronous stream of findings. Out: all findings, section by section in the order given, each
section as soon as it and those before it are complete. Promise: no check can raise or hang: one that breaks, or goes on
for longer than its limit, becomes a warning, and what it had found before stays.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from bot.types.errors import InhouseError
from bot.types.findings import Finding, State, told, warning

LIMIT_S = 30.0
"""How long a check may take that says nothing else."""
LONG_S = 90.0
"""The limit of what loads torch, or reads through a large file."""

Findings = AsyncIterator[Finding]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """`name` is for people, while it is under way and if it breaks. `look` begins it."""

    name: str
    look: Callable[[], Findings]
    limit_s: float = LIMIT_S


@dataclass(frozen=True, slots=True)
class Section:
    """Checks that belong together."""

    title: str
    checks: Sequence[Check]


async def examine(
    sections: Sequence[Section], waiting: Callable[[Sequence[str]], None]
) -> AsyncGenerator[tuple[str, list[Finding]], None]:
    """Make all checks at once; the sections with their findings. `waiting` is told what is still under way."""
    checks = [check for section in sections for check in section.checks]
    running = {asyncio.create_task(_made(check)): check.name for check in checks}
    tasks = dict(zip(map(id, checks), running, strict=True))

    def tell(_: object = None) -> None:
        waiting([name for task, name in running.items() if not task.done()])

    for task in running:
        task.add_done_callback(tell)
    try:
        for section in sections:
            tell()
            found = [await tasks[id(check)] for check in section.checks]
            yield section.title, [finding for each in found for finding in each]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _made(check: Check) -> list[Finding]:
    """Everything that a check finds within its limit."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(check.limit_s):
            async for finding in check.look():
                found.append(finding)
    except TimeoutError:
        found.append(warning(check.name, f"no answer within {check.limit_s:.0f} s", "Try again later."))
    except InhouseError as error:
        found.append(told(check.name, State.WARNING, str(error)))
    except Exception as error:  # a check that breaks must not hide the others
        fix = "This is a bug in Inhouse; the other results are still valid."
        found.append(warning(check.name, f"this check failed ({type(error).__name__}: {error})", fix))
    return found


def blocking(look: Callable[[], Iterable[Finding]]) -> Callable[[], Findings]:
    """A check that waits for disks or libraries, as an asynchronous one."""

    async def begun() -> Findings:
        for finding in await aside(lambda: list(look())):
            yield finding

    return begun


async def aside(work: Callable[[], T]) -> T:
    """What `work` gives, made in a thread that is left behind if nobody waits for it any more.

    asyncio's own threads are waited for at the end of the process; a network directory that hangs would hang us.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[], None]) -> None:
        if not future.done():
            how()

    def run() -> None:
        try:
            how = partial(future.set_result, work())
        except Exception as error:
            how = partial(future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, how)

    threading.Thread(target=run, daemon=True).start()
    return await future
