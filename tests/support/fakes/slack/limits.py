"""Slack's rate limits: a tier of calls per minute for each method, and about one post per second and channel.

Tiers count the calls of the last minute; posts use a token bucket that refills by one per second. `strict = False`
turns all limits off, `scale = 0.1` makes every window a tenth as long.
"""

import math
from collections import deque
from dataclasses import dataclass

from tests.support.fakes.slack.clock import Clock

TIERS = {1: 1, 2: 20, 3: 50, 4: 100}
METHODS = {
    "auth.test": 600,
    "apps.connections.open": TIERS[1] * 20,
    "chat.update": TIERS[3],
    "chat.delete": TIERS[3],
    "chat.postEphemeral": TIERS[4],
    "chat.startStream": TIERS[2],
    "chat.appendStream": TIERS[4],
    "chat.stopStream": TIERS[2],
    "conversations.history": TIERS[3],
    "conversations.replies": TIERS[3],
    "conversations.info": TIERS[3],
    "conversations.open": TIERS[3],
    "conversations.list": TIERS[2],
    "conversations.members": TIERS[4],
    "users.info": TIERS[4],
    "users.list": TIERS[2],
    "bots.info": TIERS[3],
    "team.info": TIERS[3],
    "reactions.add": TIERS[3],
    "reactions.remove": TIERS[2],
    "views.open": TIERS[4],
    "views.publish": TIERS[4],
    "views.update": TIERS[4],
    "files.getUploadURLExternal": TIERS[4],
    "files.completeUploadExternal": TIERS[4],
    "files.info": TIERS[4],
    "assistant.threads.setStatus": 600,
    "assistant.threads.setTitle": 600,
    "assistant.threads.setSuggestedPrompts": 600,
}
"""Calls per minute."""
POSTS = "chat.postMessage"
POST_BURST = 5.0
"""Posts in a burst per channel, before the limit of one per second applies."""


@dataclass
class _Bucket:
    left: float
    at: float


@dataclass
class _Shut:
    method: str
    channel: str
    seconds: float
    until: float = 0.0  # 0 before its first call, so that a slow machine meets it, too


class Limits:
    """All limits of one app in one workspace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rules = dict(METHODS)
        self._recent: dict[str, deque[float]] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._shut: list[_Shut] = []
        self.strict = True
        self.scale = 1.0
        self.post_burst = POST_BURST

    def set(self, method: str, calls: int) -> None:
        """Allows `calls` calls of a method per minute."""
        self._rules[method] = calls

    def exhaust(self, method: str, seconds: float, channel: str = "") -> None:
        """Rejects a method ('' for all) for `seconds` from its next call on, in one channel or everywhere, even when
        not strict."""
        self._shut.append(_Shut(method, channel, seconds))

    def wait(self, method: str, channel: str) -> int:
        """Counts a call. 0 if it is allowed, else the seconds of Retry-After."""
        now = self._clock.now()
        for shut in self._shut:
            if shut.method in ("", method) and shut.channel in ("", channel):
                shut.until = shut.until or now + shut.seconds
                if now < shut.until:
                    return max(1, math.ceil(shut.until - now))
        if not self.strict:
            return 0
        left = self._post(channel, now) if method == POSTS else self._tier(method, now)
        return max(1, math.ceil(left)) if left > 0 else 0

    def _tier(self, method: str, now: float) -> float:
        if method not in self._rules:
            return 0.0
        recent, window = self._recent.setdefault(method, deque()), 60.0 * self.scale
        while recent and recent[0] <= now - window:
            recent.popleft()
        if len(recent) >= self._rules[method]:
            return recent[0] + window - now if recent else window
        recent.append(now)
        return 0.0

    def _post(self, channel: str, now: float) -> float:
        bucket = self._buckets.setdefault(channel, _Bucket(self.post_burst, now))
        bucket.left = min(self.post_burst, bucket.left + (now - bucket.at) / self.scale)
        bucket.at = now
        if bucket.left < 1:
            return (1 - bucket.left) * self.scale
        bucket.left -= 1
        return 0.0
