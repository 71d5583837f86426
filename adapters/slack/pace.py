"""Slack's rate limits, kept from our side: so many calls of a method a minute, and a post a second in a channel.

In: a call that is about to be made. Out: the moment for it. What has to be said (a first post, a final text) waits its
turn; what only grows gives way (RetryLater), since a later version of it will do, and never takes the last calls of a
minute. A refusal that tells how long it lasts is kept to by everything that it concerns.
"""

import asyncio
from collections import deque

from bot.errors import RetryLater

MINUTE_S = 60.0
TIERS = {
    "chat.update": 50,
    "chat.postEphemeral": 100,
    "chat.startStream": 20,
    "chat.appendStream": 100,
    "chat.stopStream": 20,
    "assistant.threads.setStatus": 300,
    "conversations.replies": 50,
    "conversations.history": 50,
}
"""Calls a minute that Slack allows for the whole workspace."""
OWN_SHARE = 0.9
"""What of that is used: Slack's clock and ours begin their minutes at different moments."""
PROGRESS_SHARE = 0.7
"""What of our share may be used for text that is not final."""
POST = "chat.postMessage"
"""The one method whose limit is a channel's."""
POST_GAP_S = 1.0
"""The least time between two posts in a channel."""
MAX_WAIT_S = 25.0
"""The longest that a call waits for its turn here; then it is tried again later."""


class RateLimits:
    """Says when a call may be made. `scale` shortens every window, for tests of what would take minutes."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._calls: dict[str, deque[float]] = {}
        self._last_progress: dict[str, float] = {}
        self._last_post: dict[str, float] = {}
        self._blocked_until: dict[tuple[str, str], float] = {}

    async def acquire(self, method: str, channel: str = "") -> None:
        """Wait for the turn of a call that must be made. Raises RetryLater if that takes long."""
        wait = self._wait(method, channel, OWN_SHARE)
        if wait > MAX_WAIT_S * self.scale:
            raise RetryLater(wait, "so much is being said on Slack")
        self._count(method, channel, wait)
        if wait > 0:
            await asyncio.sleep(wait)

    def try_progress(self, method: str, channel: str = "") -> None:
        """Make way for a call that only shows more of a text. Raises RetryLater if it is not the moment."""
        now = self._now()
        # Evenly over the minute, or else much is seen at its beginning and nothing at its end.
        gap = MINUTE_S * self.scale / (TIERS[method] * PROGRESS_SHARE)
        wait = max(self._wait(method, channel, PROGRESS_SHARE), self._last_progress.get(method, 0.0) + gap - now)
        if wait > 0:
            raise RetryLater(wait, "more of it is shown a little later")
        self._last_progress[method] = now
        self._count(method, channel, 0.0)

    def available(self, method: str, channel: str = "") -> bool:
        """Whether a call could be made at once."""
        return self._wait(method, channel, OWN_SHARE) <= 0

    def block(self, method: str, channel: str, seconds: float) -> None:
        """Slack limits the rate: leave that method alone, posts in that channel only."""
        self._blocked_until[method, _scope(method, channel)] = self._now() + seconds

    def _wait(self, method: str, channel: str, share: float) -> float:
        now, wait = self._now(), 0.0
        limit = method, _scope(method, channel)
        if until := self._blocked_until.get(limit):
            wait = until - now
            if wait <= 0:
                del self._blocked_until[limit]
        if method == POST:
            return max(wait, self._last_post.get(channel, 0.0) + POST_GAP_S * self.scale - now)
        calls = self._calls.setdefault(method, deque())
        window = MINUTE_S * self.scale
        while calls and calls[0] <= now - window:
            calls.popleft()
        allowed = max(1, int(TIERS[method] * share))
        return max(wait, calls[-allowed] + window - now) if len(calls) >= allowed else wait

    def _count(self, method: str, channel: str, wait: float) -> None:
        at = self._now() + max(0.0, wait)
        if method == POST:
            self._last_post[channel] = at
            if len(self._last_post) > 10_000:
                self._last_post = {key: when for key, when in self._last_post.items() if when > at - 60}
        else:
            self._calls[method].append(at)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _scope(method: str, channel: str) -> str:
    """Where a limit of a method holds: in one channel, or ('') everywhere."""
    return channel if method == POST else ""
