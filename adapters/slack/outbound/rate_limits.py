"""Keeps within Slack's rate limits: so many calls of a method a minute, and one post a second in a channel.

First posts and final texts wait for their turn. Progress updates are skipped instead (NotSent), since a later one
shows more, and never use up a minute's last calls. A rate limit from Slack blocks the method, for posts in its channel
only.
"""

import asyncio
from collections import deque

from bot.types.errors import NotSent

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
"""Calls a minute that Slack allows in the whole workspace."""
OWN_SHARE = 0.9
"""The share of them that is used, since Slack's minutes begin at other moments than ours."""
PROGRESS_SHARE = 0.7
"""The share of them that progress updates may use."""
POST = "chat.postMessage"
"""The method whose limit is per channel."""
POST_GAP_S = 1.0
"""The least time between two posts in a channel, seconds."""
MAX_WAIT_S = 25.0
"""The longest that a call waits here; beyond it NotSent is raised. Seconds."""


class RateLimits:
    """The rate limits of one workspace. `scale` shortens every window in tests."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._calls: dict[str, deque[float]] = {}
        self._last_progress: dict[str, float] = {}
        self._last_post: dict[str, float] = {}
        self._blocked_until: dict[tuple[str, str], float] = {}

    async def acquire(self, method: str, channel: str = "") -> None:
        """Wait until a call may be made. Raises NotSent if that takes longer than MAX_WAIT_S."""
        wait = self._wait(method, channel, OWN_SHARE)
        if wait > MAX_WAIT_S * self.scale:
            raise NotSent(wait, "many messages are waiting to be sent to Slack")
        self._count(method, channel, wait)
        if wait > 0:
            await asyncio.sleep(wait)

    def try_progress(self, method: str, channel: str = "") -> None:
        """Count a progress update that may be made now. Raises NotSent if it may not."""
        now = self._now()
        # Spread evenly over the minute, or else nothing is shown at its end.
        gap = MINUTE_S * self.scale / (TIERS[method] * PROGRESS_SHARE)
        wait = max(self._wait(method, channel, PROGRESS_SHARE), self._last_progress.get(method, 0.0) + gap - now)
        if wait > 0:
            raise NotSent(wait, "progress is shown a little later")
        self._last_progress[method] = now
        self._count(method, channel, 0.0)

    def available(self, method: str, channel: str = "") -> bool:
        """Whether a call may be made at once."""
        return self._wait(method, channel, OWN_SHARE) <= 0

    def block(self, method: str, channel: str, seconds: float) -> None:
        """Make no calls of a method (for posts: in that channel) for so many seconds."""
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
    """The channel in which a method's limit holds, '' for all."""
    return channel if method == POST else ""
