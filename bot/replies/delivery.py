"""Delivers the messages of one answer to the platform, each exactly once.

A frame is the list of replies as they should look now; the newest frame wins. Posts and edits respect the platform's
rate. The intent to post is stored before the post, the platform id right after. After an unknown outcome it looks for
the message before it posts again. The final text is delivered, or its loss is stored: what fails for GIVE_UP_S is
dropped.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from bot.observability.metrics import Metrics
from bot.platforms.adapter import Adapter
from bot.storage import Outbox
from bot.types.errors import Gone, InhouseError, NotSent, Rejected, RetryLater, StorageError
from bot.types.messages import Reply

log = logging.getLogger(__name__)

VOID = "*(This belonged to an earlier attempt; the answer is above.)*"
"""Replaces a message that is left over when a rewritten answer needs fewer messages."""

CALL_S = 120.0
"""Timeout of one post or edit, in seconds; afterwards its outcome counts as unknown."""

GIVE_UP_S = 86_400.0
"""Seconds of failed attempts after which a final text is dropped."""

RETRY_DELAYS_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Delays between retries after a failure that gives no retry time."""

FIRST_LOG_S, _LOG_FACTOR = 60.0, 5.0
"""Failures are logged when they have lasted this many seconds, then 5 times as long, and so on."""


class FailureLog:
    """Decides when to log, and when to give up, what fails again and again."""

    def __init__(self) -> None:
        self._since: float | None = None  # monotonic time of the first of the failures in a row
        self._log_at_s = FIRST_LOG_S

    def failed(self) -> bool:
        """Record a failure; returns whether it is to be logged."""
        if self._since is None:
            self._since = time.monotonic()
        due = self.seconds >= self._log_at_s
        while self.seconds >= self._log_at_s:
            self._log_at_s *= _LOG_FACTOR
        return due

    def succeeded(self) -> None:
        """Record the end of the failures."""
        self._since, self._log_at_s = None, FIRST_LOG_S

    @property
    def seconds(self) -> float:
        """How long the failures have lasted."""
        return time.monotonic() - self._since if self._since is not None else 0.0

    @property
    def expired(self) -> bool:
        """Whether it is time to give up."""
        return self._since is not None and self.seconds >= GIVE_UP_S


class Delivery:
    """The messages of one answer. Call `show` at any rate and run `run` as a task.

    `recall`: id of a request of which an earlier process may have posted messages.
    """

    def __init__(self, adapter: Adapter, outbox: Outbox, metrics: Metrics, recall: str = "") -> None:
        self._adapter, self._outbox, self._metrics, self._recall = adapter, outbox, metrics, recall
        self._compose: Callable[[], Awaitable[Sequence[Reply]]] | None = None
        self._frames: Sequence[Reply] = ()
        self._ids: dict[str, str] = {}  # platform id by reply id
        self._saved: set[str] = set()  # reply ids whose platform id is stored
        self._outcome_unknown: set[str] = set()  # reply ids whose post has an unknown outcome
        self._shown: dict[str, Reply] = {}
        self._earlier: dict[str, Reply] = {}  # posted by an earlier process
        self._delivered: set[str] = set()
        self._drop_reason = ""  # why this answer cannot be shown any more
        self._changed, self._ending = asyncio.Event(), asyncio.Event()
        self._begun = self._called_off = False  # a post was attempted; the answer is cancelled
        self._attempts = 0  # failed ones in a row
        self._failures = FailureLog()

    @property
    def posted(self) -> bool:
        """Whether a message of this answer is on the platform, as far as is known."""
        return bool(self._ids)

    async def call_off(self) -> bool:
        """Cancel the answer before its first post; False, without effect, if a message may exist already.

        Raises StorageError.
        """
        if self._recall:
            await self._load_stored()
        if self._begun:
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """Deliver nothing more and end `run`; what is stored stays as it is."""
        self._called_off = True
        self._changed.set()
        self._ending.set()

    def show(self, frames: Sequence[Reply]) -> None:
        """Set the replies to show, in order. Frames with final replies must be the last ones."""

        async def composed() -> Sequence[Reply]:
            return frames

        self.grow(composed)

    def grow(self, compose: Callable[[], Awaitable[Sequence[Reply]]]) -> None:
        """Same as `show`, but calls `compose` only when the platform can take an update."""
        self._compose = compose
        self._changed.set()

    async def run(self) -> None:
        """Deliver frames until the final ones are shown or their loss is stored."""
        while not self._finished():
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            try:
                frames = await self._compose() if self._compose and not self._called_off else ()
                if not self._called_off:  # call_off may run while frames are composed
                    self._frames = frames
                    await self._deliver_frame(frames)
                self._attempts = 0
                self._failures.succeeded()
            except Exception as error:  # a bug in an adapter must not lose the answer
                await self._failed(error)
            if not self._finished():
                await self._pause(self._adapter.limits.min_interval_s - (time.monotonic() - began))

    def _finished(self) -> bool:
        shown = bool(self._frames) and all(reply.final and reply.reply_id in self._delivered for reply in self._frames)
        return shown or self._called_off

    async def _failed(self, error: Exception) -> None:
        """Wait for the next attempt, or drop a final text that could not be shown for GIVE_UP_S."""
        platform, known = self._adapter.platform, isinstance(error, (InhouseError, TimeoutError))
        self._attempts += 1
        if not isinstance(error, NotSent):  # the platform refused nothing
            self._metrics.delivery_failed(platform)
        if self._failures.failed() or (self._attempts == 1 and not known):
            seconds, reason = self._failures.seconds, str(error) or type(error).__name__
            log.warning(
                "An answer cannot be shown on %s yet; the last error, after %.0f s, was: %s",
                *(platform, seconds, reason),
                exc_info=None if known else error,
            )
        if self._failures.expired and self._frames and self._frames[0].final:
            await self._expire(error)
            return
        delay = RETRY_DELAYS_S[min(self._attempts, len(RETRY_DELAYS_S)) - 1]
        await self._pause(error.seconds if isinstance(error, RetryLater) else delay)
        self._changed.set()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the delivery is to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._ending.wait()

    async def _expire(self, error: Exception) -> None:
        """Drop the final text; if not even that can be stored, the next start tries again."""
        hours, reason = GIVE_UP_S / 3600, str(error) or type(error).__name__
        self._count_drop(f"It could not be shown for {hours:.0f} hours: {reason}")
        log.error(
            "An answer was dropped, because it could not be shown on %s for %.0f hours; the last error was: %s",
            *(self._adapter.platform, hours, reason),
            extra={"reply_id": self._frames[0].reply_id},
        )
        try:
            for reply in self._frames:
                if reply.reply_id not in self._delivered:
                    await self._outbox.mark_delivered(reply.reply_id, dropped=self._drop_reason)
        except StorageError as problem:
            log.error("It could not be stored that an answer was dropped: %s", problem)
        self.abandon()

    def _count_drop(self, reason: str) -> None:
        if not self._drop_reason:
            self._metrics.answer_dropped(self._adapter.platform)
        self._drop_reason = reason

    async def _load_stored(self) -> None:
        for stored in await self._outbox.of_request(self._recall):
            if stored.reply.platform_id:
                self._ids[stored.reply.reply_id] = stored.reply.platform_id
                self._saved.add(stored.reply.reply_id)
            else:
                self._outcome_unknown.add(stored.reply.reply_id)
            if stored.state in ("posting", "posted"):
                self._earlier[stored.reply.reply_id] = stored.reply
        self._recall = ""
        self._begun = self._begun or bool(self._ids or self._outcome_unknown)

    async def _deliver_frame(self, frames: Sequence[Reply]) -> None:
        if self._recall:
            await self._load_stored()
        if frames and frames[0].final:
            self._frames = frames = [*frames, *self._leftovers(frames)]
        for reply in frames:
            if reply.reply_id in self._delivered:
                continue
            if not self._drop_reason and self._shown.get(reply.reply_id) != reply:
                await self._deliver_or_drop(reply)
            if reply.final:
                await self._outbox.mark_delivered(reply.reply_id, dropped=self._drop_reason)
                self._delivered.add(reply.reply_id)

    def _leftovers(self, frames: Sequence[Reply]) -> list[Reply]:
        """Void the posted messages that are not part of the final answer."""
        known = {reply.reply_id for reply in frames}
        return [
            replace(reply, committed=VOID, tail="", final=True, buttons=())
            for reply in {**self._earlier, **self._shown}.values()
            if reply.reply_id not in known
        ]

    async def _deliver_or_drop(self, reply: Reply) -> None:
        try:
            await self._deliver(reply)
        except Gone as error:
            self._drop(reply, error)
        except Rejected as error:
            if reply.reply_id not in self._ids:
                self._drop(reply, error)
            elif reply.final:
                await self._repost(reply)
            else:
                self._shown[reply.reply_id] = reply  # skip this edit; the next one includes its text

    async def _repost(self, reply: Reply) -> None:
        """Post the final text as a new message, because the old one cannot be edited."""
        del self._ids[reply.reply_id]
        self._saved.discard(reply.reply_id)
        try:
            await self._deliver(reply)
        except Rejected as error:
            self._drop(reply, error)

    def _drop(self, reply: Reply, error: Rejected) -> None:
        self._count_drop(str(error))
        log.warning("A reply cannot be shown: %s", error, extra={"reply_id": reply.reply_id})

    async def _deliver(self, reply: Reply) -> None:
        platform_id = self._ids.get(reply.reply_id) or await self._find_posted(reply)
        if platform_id is not None:
            async with asyncio.timeout(CALL_S):
                await self._adapter.update(replace(reply, platform_id=platform_id))
        elif reply.committed == VOID:  # never posted, so there is nothing to void
            return
        else:
            await self._post(reply)
        if reply.reply_id not in self._saved:
            await self._outbox.posted(reply.reply_id, self._ids[reply.reply_id])
            self._saved.add(reply.reply_id)
        self._shown[reply.reply_id] = reply

    async def _find_posted(self, reply: Reply) -> str | None:
        """Look up the platform id of a reply that an interrupted call may have posted; None if it was not."""
        if reply.reply_id not in self._outcome_unknown:
            return None
        found = await self._adapter.find_posted(reply)
        self._outcome_unknown.discard(reply.reply_id)
        if found is not None:
            self._ids[reply.reply_id] = found
        return found

    async def _post(self, reply: Reply) -> None:
        self._begun = True
        await self._outbox.posting(reply)
        try:
            async with asyncio.timeout(CALL_S):
                self._ids[reply.reply_id] = await self._adapter.post(reply)
        except (RetryLater, Rejected):
            raise
        except Exception:
            self._outcome_unknown.add(reply.reply_id)
            raise
