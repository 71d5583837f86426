"""How long a message may be kept for what belongs to it: Slack wants an answer to each event within 3 s.

In: things to fetch. Out: what was fetched in time, and something else for the rest. All that is fetched for one message
shares one deadline.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from bot.errors import AdapterError

log = logging.getLogger(__name__)

CONTEXT_S = 2.0

T = TypeVar("T")


class ContextDeadline:
    """Lasts for so many seconds from now on."""

    def __init__(self, seconds: float = CONTEXT_S) -> None:
        self.until = asyncio.get_running_loop().time() + seconds
        """On the loop's clock."""

    async def limit(self, work: Awaitable[T], default: T) -> T:
        """What `work` gives, or `otherwise` if it fails or comes too late."""
        try:
            async with asyncio.timeout_at(self.until):
                return await work
        except TimeoutError:
            log.info("Slack was too slow to tell what belongs to a message; it is left out.")
        except AdapterError as error:
            log.info("What belongs to a message is left out: %s", error)
        return default
