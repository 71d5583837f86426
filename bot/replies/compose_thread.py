"""Composes the frames of one answer on a thread, one at a time, with a time limit.

The thread is a daemon, so the exit of the process does not wait for it.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

BUDGET_S = 2.0
"""Time limit for one frame; normal frames take milliseconds."""

T = TypeVar("T")


class ComposeThread:
    """Serializes the composing of one answer on daemon threads."""

    def __init__(self) -> None:
        self._computing: asyncio.Future[None] | None = None

    async def run(self, compose: Callable[[], T]) -> T:
        """Run `compose` on a thread after earlier calls have returned; returns its result or raises its exception.

        Raises TimeoutError after BUDGET_S, waiting included; the late result is dropped.
        """
        async with asyncio.timeout(BUDGET_S):
            while self._computing is not None and not self._computing.done():
                await asyncio.wait([self._computing])
            found: list[T] = []
            errors: list[Exception] = []
            self._computing = computing = _on_thread(lambda: found.append(compose()), errors)
            await asyncio.wait([computing])  # unlike `await computing`, does not cancel the thread's future on timeout
        for error in errors:
            raise error
        return found[0]


def _on_thread(work: Callable[[], None], errors: list[Exception]) -> asyncio.Future[None]:
    """Run `work` on a new thread; the future completes when it returned or put its exception into `errors`."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=run, name="compose", daemon=True).start()
    return done
