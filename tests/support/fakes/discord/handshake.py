"""Checks an IDENTIFY: the token, known intents that the portal allows, and the daily session limit.

Raises `Refused` with Discord's close code.
"""

from tests.support.fakes.discord.bits import HIGHEST, PRIVILEGED, Intents, granted
from tests.support.fakes.discord.clock import Clock
from tests.support.fakes.discord.state import Json
from tests.support.fakes.discord.store import DiscordStore

DAY = 86400.0


class Refused(Exception):
    """Close the connection with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class SessionStart:
    """Counts IDENTIFYs: `total` in 24 hours; tests may set `remaining` and `resets_at`.

    `shards`: how many are recommended, and the fewest that are accepted. `at_once`: `max_concurrency`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.total = 1000
        self.remaining = 1000
        self.shards = self.at_once = 1
        self.resets_at = clock.now() + DAY

    def payload(self) -> Json:
        """The `session_start_limit` of GET /gateway/bot."""
        self._renew()
        after = int((self.resets_at - self._clock.now()) * 1000)
        return {"total": self.total, "remaining": self.remaining, "reset_after": after, "max_concurrency": self.at_once}

    def leave(self, remaining: int, reset_after: float) -> None:
        """Sets how many IDENTIFYs remain, and the seconds until the count resets."""
        self.remaining, self.resets_at = remaining, self._clock.now() + reset_after

    def take(self) -> None:
        """Uses one IDENTIFY; with none left Discord resets the bot's token, so every call fails (4004)."""
        self._renew()
        if self.remaining <= 0:
            raise Refused(4004)
        self.remaining -= 1

    def _renew(self) -> None:
        if self._clock.now() >= self.resets_at:
            self.remaining, self.resets_at = self.total, self._clock.now() + DAY


def checked_identify(data: Json, token: str, start: SessionStart, store: DiscordStore) -> tuple[Intents, int, int]:
    """The intents of a valid IDENTIFY, its shard and the number of shards.

    Raises Refused: 4004 (token), 4010 (shard), 4011 (too few shards), 4013 or 4014 (intents).
    """
    start.take()
    if data.get("token") != token:
        raise Refused(4004)
    shard = data.get("shard") or [0, 1]
    if not 0 <= shard[0] < shard[1]:
        raise Refused(4010)
    if shard[1] < start.shards:
        raise Refused(4011)
    wanted = data.get("intents")
    if not isinstance(wanted, int) or not 0 <= wanted < HIGHEST:
        raise Refused(4013)
    intents = Intents(wanted)
    if intents & PRIVILEGED & ~granted(store.message_content, store.members):
        raise Refused(4014)
    return intents, shard[0], shard[1]
