"""The shared deadline for fetching a message's context: Slack expects an acknowledgement of each event within 3 s."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from bot.types.errors import AdapterError

log = logging.getLogger(__name__)

CONTEXT_S = 2.0

T = TypeVar("T")


class ContextDeadline:
    """A deadline so many seconds from now."""

    def __init__(self, seconds: float = CONTEXT_S) -> None:
        self.until = asyncio.get_running_loop().time() + seconds
        """On the loop's clock."""

    async def limit(self, work: Awaitable[T], default: T, later_s: float = 0.0) -> T:
        """The result of `work`, or `default` if it fails or the deadline and `later_s` pass."""
        try:
            async with asyncio.timeout_at(self.until + later_s):
                return await work
        except TimeoutError:
            log.info("Slack did not send a part of a message's context in time; it is left out.")
        except AdapterError as error:
            log.info("A part of a message's context is left out: %s", error)
        return default
