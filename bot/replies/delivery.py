"""Delivers the messages of one answer to the platform, each exactly once.

A frame is the list of replies as they should look now; the newest frame wins. Posts and edits respect the platform's
rate. The intent to post is stored before the post, the platform id right after. After an unknown outcome it looks for
the message before it posts again. The final text is delivered, or its loss is stored.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from bot.platforms.adapter import Adapter
from bot.storage import Outbox
from bot.types.errors import Gone, OutcomeUnknown, Rejected, RetryLater, StorageError
from bot.types.messages import Reply

log = logging.getLogger(__name__)

VOID = "*(This belonged to an earlier attempt; the answer is above.)*"
"""Replaces a message that is left over when a rewritten answer needs fewer messages."""

CALL_S = 120.0
"""Timeout of one post or edit, in seconds; afterwards its outcome counts as unknown."""

_PATIENCE_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Delays between retries after a failure that gives no retry time."""


class Delivery:
    """The messages of one answer. Call `show` at any rate and run `run` as a task.

    `recall`: id of a request of which an earlier process may have posted messages.
    """

    def __init__(self, adapter: Adapter, outbox: Outbox, recall: str = "") -> None:
        self._adapter, self._outbox, self._recall = adapter, outbox, recall
        self._compose: Callable[[], Awaitable[Sequence[Reply]]] | None = None
        self._frames: Sequence[Reply] = ()
        self._ids: dict[str, str] = {}  # platform id by reply id
        self._saved: set[str] = set()  # reply ids whose platform id is stored
        self._doubtful: set[str] = set()  # reply ids whose post has an unknown outcome
        self._shown: dict[str, Reply] = {}
        self._older: dict[str, Reply] = {}  # posted by an earlier process
        self._settled: set[str] = set()
        self._lost = ""  # why this answer cannot be shown any more
        self._changed = asyncio.Event()
        self._begun = self._called_off = False  # a post was attempted; the answer is cancelled
        self._failures = 0

    def call_off(self) -> bool:
        """Cancel the answer before its first post; False, without effect, if a message may exist already."""
        if self._begun or self._recall:
            return False
        self._called_off = True
        self._changed.set()
        return True

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
                    await self._carry(frames)
                self._failures = 0
            except RetryLater as error:
                await self._again_in(error.seconds)
            except (OutcomeUnknown, StorageError, TimeoutError):
                await self._again_in(self._patience())
            except Exception:  # a bug in an adapter must not lose the answer
                log.exception("An adapter failed; the answer is tried again")
                await self._again_in(self._patience())
            if not self._finished():
                await asyncio.sleep(max(0.0, self._adapter.limits.min_interval_s - (time.monotonic() - began)))

    def _finished(self) -> bool:
        shown = bool(self._frames) and all(reply.final and reply.reply_id in self._settled for reply in self._frames)
        return shown or self._called_off

    async def _again_in(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._changed.set()

    def _patience(self) -> float:
        self._failures += 1
        return _PATIENCE_S[min(self._failures, len(_PATIENCE_S)) - 1]

    async def _remember(self) -> None:
        for stored in await self._outbox.of_request(self._recall):
            if stored.reply.platform_id:
                self._ids[stored.reply.reply_id] = stored.reply.platform_id
                self._saved.add(stored.reply.reply_id)
                if stored.state == "posted":
                    self._older[stored.reply.reply_id] = stored.reply
            else:
                self._doubtful.add(stored.reply.reply_id)
        self._recall = ""
        self._begun = self._begun or bool(self._ids or self._doubtful)

    async def _carry(self, frames: Sequence[Reply]) -> None:
        if self._recall:
            await self._remember()
        if frames and frames[0].final:
            self._frames = frames = [*frames, *self._voided(frames)]
        for reply in frames:
            if reply.reply_id in self._settled:
                continue
            if not self._lost and self._shown.get(reply.reply_id) != reply:
                await self._try(reply)
            if reply.final:
                await self._outbox.settled(reply.reply_id, dropped=self._lost)
                self._settled.add(reply.reply_id)

    def _voided(self, frames: Sequence[Reply]) -> list[Reply]:
        """Void the posted messages that are not part of the final answer."""
        known = {reply.reply_id for reply in frames}
        return [
            replace(reply, committed=VOID, tail="", final=True, buttons=())
            for reply in {**self._older, **self._shown}.values()
            if reply.reply_id not in known
        ]

    async def _try(self, reply: Reply) -> None:
        try:
            await self._bring(reply)
        except Gone as error:
            self._give_up(reply, error)
        except Rejected as error:
            if reply.reply_id not in self._ids:
                self._give_up(reply, error)
            elif reply.final:
                await self._post_anew(reply)
            else:
                self._shown[reply.reply_id] = reply  # skip this edit; the next one includes its text

    async def _post_anew(self, reply: Reply) -> None:
        """Post the final text as a new message, because the old one cannot be edited."""
        del self._ids[reply.reply_id]
        self._saved.discard(reply.reply_id)
        try:
            await self._bring(reply)
        except Rejected as error:
            self._give_up(reply, error)

    def _give_up(self, reply: Reply, error: Rejected) -> None:
        self._lost = str(error)
        log.warning("A reply cannot be shown: %s", error, extra={"reply_id": reply.reply_id})

    async def _bring(self, reply: Reply) -> None:
        platform_id = self._ids.get(reply.reply_id) or await self._found(reply)
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

    async def _found(self, reply: Reply) -> str | None:
        """Look up the platform id of a reply that an interrupted call may have posted; None if it was not."""
        if reply.reply_id not in self._doubtful:
            return None
        found = await self._adapter.find_posted(reply)
        self._doubtful.discard(reply.reply_id)
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
            self._doubtful.add(reply.reply_id)
            raise
