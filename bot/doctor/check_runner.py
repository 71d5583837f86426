"""Run all checks concurrently and yield their findings section by section.

A check is an async generator of findings. A section is yielded once it and all sections before it are complete. A check
that raises or exceeds its time limit becomes a warning; its earlier findings are kept.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from bot.types.errors import InhouseError
from bot.types.findings import Finding, State, from_error, warning

LIMIT_S = 30.0
"""Default time limit of a check, seconds."""
LONG_S = 90.0
"""Time limit of checks that import torch or read large files, seconds."""

Findings = AsyncIterator[Finding]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `name` is shown while it runs and if it fails; `start` returns its findings.

    settings: names of the settings that it depends on.
    """

    name: str
    start: Callable[[], Findings]
    limit_s: float = LIMIT_S
    settings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A titled group of checks."""

    title: str
    checks: Sequence[Check]


async def run_checks(
    sections: Sequence[Section], waiting: Callable[[Sequence[str]], None]
) -> AsyncGenerator[tuple[str, list[Finding]], None]:
    """Run all checks concurrently; yield each section's title and findings, in order.

    Calls `waiting` with the names of the checks that are still running, whenever these change.
    """
    checks = [check for section in sections for check in section.checks]
    running = {asyncio.create_task(_run(check)): check.name for check in checks}
    tasks = dict(zip(map(id, checks), running, strict=True))

    def report_running(_: object = None) -> None:
        waiting([name for task, name in running.items() if not task.done()])

    for task in running:
        task.add_done_callback(report_running)
    try:
        for section in sections:
            report_running()
            found = [await tasks[id(check)] for check in section.checks]
            yield section.title, [finding for each in found for finding in each]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _run(check: Check) -> list[Finding]:
    """Run one check within its time limit and return its findings."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(check.limit_s):
            async for finding in check.start():
                found.append(finding)
    except TimeoutError:
        found.append(warning(check.name, f"no answer within {check.limit_s:.0f} s", "Try again later."))
    except InhouseError as error:
        found.append(from_error(check.name, State.WARNING, str(error)))
    except Exception as error:  # a failing check must not hide the results of the others
        fix = "This is a bug in Inhouse; the other results are still valid."
        found.append(warning(check.name, f"this check failed ({type(error).__name__}: {error})", fix))
    return found


def blocking(check: Callable[[], Iterable[Finding]]) -> Callable[[], Findings]:
    """Turn a blocking check into an asynchronous one that runs in a thread."""

    async def run() -> Findings:
        for finding in await in_daemon_thread(lambda: list(check())):
            yield finding

    return run


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Run `work` in a daemon thread and return its result.

    Not `asyncio.to_thread`: the process joins those threads at exit, so a network directory that hangs would block it.
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
