"""Runs the composing of one answer's frames on a thread, one at a time, under a time budget.

The thread is a daemon: the end of the process does not wait for it, whatever it computes.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

BUDGET_S = 2.0
"""The longest that one frame may take; rendering what messages can show takes milliseconds."""

T = TypeVar("T")


class ComposeThread:
    """The thread of one answer."""

    def __init__(self) -> None:
        self._computing: asyncio.Future[None] | None = None

    async def run(self, compose: Callable[[], T]) -> T:
        """The result of `compose`, or its exception, after earlier calls have returned.

        Raises TimeoutError when that takes longer than the budget; a late result is dropped.
        """
        async with asyncio.timeout(BUDGET_S):
            while self._computing is not None and not self._computing.done():
                await asyncio.wait([self._computing])
            found: list[T] = []
            errors: list[Exception] = []
            self._computing = computing = _on_thread(lambda: found.append(compose()), errors)
            await asyncio.wait([computing])  # unlike `await computing`, it does not cancel what the thread is to settle
        for error in errors:
            raise error
        return found[0]


def _on_thread(work: Callable[[], None], errors: list[Exception]) -> asyncio.Future[None]:
    """Do it on a new thread; done when it returned, or raised what is in `errors` then."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=run, name="compose", daemon=True).start()
    return done
