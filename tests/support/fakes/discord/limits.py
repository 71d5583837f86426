"""Discord's rate limits: one bucket per route and channel, a global limit, and the count of invalid requests.

A bucket is a fixed window that opens with its first request. Real limits are known only from response headers;
`REALISTIC` lists typical values, and tests set others with `set`.
"""

import math
from collections import deque
from dataclasses import dataclass
from hashlib import md5

from tests.support.fakes.discord.clock import Clock
from tests.support.fakes.discord.state import Json

REALISTIC = {
    "POST /channels/{channel_id}/messages": (5, 5.0),
    "PATCH /channels/{channel_id}/messages/{message_id}": (5, 5.0),
    "DELETE /channels/{channel_id}/messages/{message_id}": (5, 1.0),
    "GET /channels/{channel_id}/messages": (5, 5.0),
    "POST /channels/{channel_id}/typing": (5, 5.0),
    "POST /channels/{channel_id}/threads": (50, 300.0),
    "POST /channels/{channel_id}/messages/{message_id}/threads": (50, 300.0),
    "PUT /channels/{channel_id}/messages/{message_id}/reactions/{emoji}/@me": (1, 0.25),
    "PUT /applications/{application_id}/commands": (5, 20.0),
    "POST /webhooks/{application_id}/{token}": (5, 2.0),
    "PATCH /webhooks/{application_id}/{token}/messages/{message_id}": (5, 2.0),
}
GLOBAL_A_SECOND = 50
BAN_AFTER = 10_000
BAN_WINDOW = 600.0


@dataclass(frozen=True)
class Refusal:
    """A 429 response: its body and headers."""

    body: Json
    headers: dict[str, str]
    scope: str


@dataclass
class _Bucket:
    limit: int
    remaining: int
    resets_at: float
    scope: str = "user"


class Limits:
    """All limits of one bot."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rules = dict(REALISTIC)
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._recent: deque[float] = deque()
        self._pause = self._paused_until = 0.0
        self._invalid: deque[float] = deque()

    def set(self, route: str, limit: int, seconds: float) -> None:
        """Allows `limit` requests per channel in `seconds` for a route ("POST /channels/{channel_id}/messages")."""
        self._rules[route] = (limit, seconds)

    def exhaust(self, route: str, channel_id: str, seconds: float, scope: str = "user") -> None:
        """Empties the bucket of a route in a channel for `seconds`, without telling the client. scope: user or
        shared."""
        limit, _ = self._rules.get(route, (1, seconds))
        self._buckets[route, channel_id] = _Bucket(limit, 0, self._clock.now() + seconds, scope)

    def pause_all(self, seconds: float) -> None:
        """Answers all calls but interaction responses with a global 429 for `seconds` from the next one on."""
        self._pause = seconds

    @property
    def invalid(self) -> int:
        """Responses with 401, 403 or 429 (without scope shared) within the last ten minutes."""
        while self._invalid and self._invalid[0] < self._clock.now() - BAN_WINDOW:
            self._invalid.popleft()
        return len(self._invalid)

    @property
    def banned(self) -> bool:
        """Whether the number of invalid requests blocks the client's address."""
        return self.invalid >= BAN_AFTER

    def note(self, status: int, scope: str) -> None:
        """Counts a response."""
        if status in (401, 403) or (status == 429 and scope != "shared"):
            self._invalid.append(self._clock.now())

    def take(self, route: str, major: str, counts_globally: bool) -> dict[str, str] | Refusal:
        """Counts a request; the rate limit headers of its response, or a Refusal."""
        now = self._clock.now()
        if counts_globally and (refusal := self._global(now)):
            return refusal
        rule = self._rules.get(route)
        if rule is None:
            return {}
        bucket = self._buckets.get((route, major))
        if bucket is None or bucket.resets_at <= now:
            bucket = self._buckets[route, major] = _Bucket(rule[0], rule[0], now + rule[1])
        if bucket.remaining <= 0:
            wait = bucket.resets_at - now
            headers = self._headers(route, bucket, now) | {"X-RateLimit-Scope": bucket.scope}
            return _refusal(wait, False, bucket.scope, headers)
        bucket.remaining -= 1
        return self._headers(route, bucket, now)

    def _global(self, now: float) -> Refusal | None:
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if self._pause:
            self._paused_until, self._pause = now + self._pause, 0.0
        if now < self._paused_until:
            return _refusal(self._paused_until - now, True, "global", {"X-RateLimit-Scope": "global"})
        if len(self._recent) >= GLOBAL_A_SECOND:
            return _refusal(self._recent[0] + 1 - now, True, "global", {"X-RateLimit-Scope": "global"})
        self._recent.append(now)
        return None

    def _headers(self, route: str, bucket: _Bucket, now: float) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(bucket.limit),
            "X-RateLimit-Remaining": str(bucket.remaining),
            "X-RateLimit-Reset": f"{bucket.resets_at:.3f}",
            "X-RateLimit-Reset-After": f"{max(bucket.resets_at - now, 0.001):.3f}",
            "X-RateLimit-Bucket": md5(route.encode(), usedforsecurity=False).hexdigest(),
        }


def _refusal(wait: float, everywhere: bool, scope: str, headers: dict[str, str]) -> Refusal:
    wait = math.ceil(wait * 1000) / 1000
    body: Json = {"message": "You are being rate limited.", "retry_after": wait, "global": everywhere}
    if everywhere:
        headers = headers | {"X-RateLimit-Global": "true"}
    return Refusal(body, headers | {"Retry-After": str(math.ceil(wait))}, scope)
