"""Limits how many messages of bots are answered in a row, so that two bots cannot answer each other for ever."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from bot.conversations.backfill import place_of
from bot.types.messages import Accepted, ConversationKey, IncomingMessage, Outcome, Refused

log = logging.getLogger(__name__)

MAX_IN_A_ROW = 5
"""Enough for a bot that posts a few alerts, few enough that a loop of two bots costs only some minutes of the model."""
QUIET_S = 3600.0
"""Seconds without a message of a bot after which counting starts again: a loop posts far more often."""
MAX_CONVERSATIONS = 2000
"""Maximum number of conversations whose count is remembered."""

LIMIT_REACHED = (
    f"I have answered {MAX_IN_A_ROW} messages of bots in a row here, so I leave out further ones until a person writes."
)


@dataclass(slots=True)
class _Run:
    """Messages of bots in a row: the ids of those that were answered or refused, and the time of the last one."""

    message_ids: list[str] = field(default_factory=list)
    last: float = 0.0


class BotLimit:
    """Limits the messages of bots per conversation. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._runs: OrderedDict[ConversationKey, _Run] = OrderedDict()

    def reset(self, event: IncomingMessage) -> None:
        """Start counting again: a person wrote."""
        self._runs.pop(place_of(event), None)

    def check(self, event: IncomingMessage) -> Outcome | None:
        """Count a bot's message, once; None if it may be answered. The first one over the limit gets a sentence."""
        place, now = place_of(event), self._clock()
        run = self._runs.setdefault(place, _Run())
        self._runs.move_to_end(place)
        if len(self._runs) > MAX_CONVERSATIONS:
            self._runs.popitem(last=False)
        if now - run.last > QUIET_S:
            run.message_ids.clear()
        run.last = now
        if event.message_id in run.message_ids[:MAX_IN_A_ROW]:
            return None
        if len(run.message_ids) > MAX_IN_A_ROW:
            return Accepted()
        run.message_ids.append(event.message_id)
        if len(run.message_ids) <= MAX_IN_A_ROW:
            return None
        log.warning("Bots in channel %s are not answered until a person writes there.", event.key.channel)
        return Refused(LIMIT_REACHED)
