"""What text is shown of an answer, and when.

In: the words of the worker about one request (it waits, here is more text, it ended like this). Out: frames for its
Delivery. It promises: the first words go out at once, everything shown is a beginning of the answer, and the final text
is stored before it is shown.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace

from bot.adapter import Adapter
from bot.delivery import Delivery
from bot.errors import StorageError
from bot.formatting import open_fence, split
from bot.messages import ActionKind, FinishReason, GenerationRequest, Reply, RequestStatus, Usage
from bot.storage import Storage, StoredReply

log = logging.getLogger(__name__)

TYPING_S = 8.0
"""How often to say again that something is going on; platforms forget it after ten seconds."""

_STATUS = {
    FinishReason.STOP: RequestStatus.FINISHED,
    FinishReason.LENGTH: RequestStatus.FINISHED,
    FinishReason.ABORT: RequestStatus.CANCELLED,
    FinishReason.ERROR: RequestStatus.FAILED,
}


def reply_id(request_id: str, part: int) -> str:
    """The name of one message of an answer: the same after every restart, and short enough for Discord's nonce."""
    return hashlib.blake2s(f"{request_id}/{part}".encode(), digest_size=10).hexdigest()


class LiveReply:
    """One answer, from the moment that it is owed until its last message is final.

    `recall`: an earlier process may have posted some of it.
    """

    def __init__(self, request: GenerationRequest, adapter: Adapter, storage: Storage, *, recall: bool) -> None:
        self.request = request
        self._adapter, self._storage = adapter, storage
        self._delivery = Delivery(adapter, storage.outbox, request.request_id if recall else "")
        self._text, self._line, self._note, self._before, self._ended = "", "", "", "", False
        self._said = asyncio.Event()
        self._withdrawn = False

    async def run(self) -> None:
        """Deliver until the answer is final."""
        typing = asyncio.create_task(self._keep_typing())
        try:
            await self._delivery.run()
        finally:
            typing.cancel()

    def say(self, line: str) -> None:
        """What to show while there is no text: a place in the queue, a model being loaded; '' for nothing."""
        if line == self._line or self._text or self._ended:
            return
        self._line = line
        self._said.set()
        if not self._adapter.limits.appends:
            self._show()

    def follow(self, before: str) -> None:
        """The answer goes on where this text, which stands in an earlier message, ended."""
        self._before = before

    def withdraw(self) -> None:
        """The question is gone: where nothing was shown yet, nothing shall be."""
        self._withdrawn = True

    def push(self, text: str) -> None:
        """More text of the answer."""
        if text:
            self._text += text
            self._show()

    def restart(self, note: str = "") -> None:
        """The text so far is void: the answer is written again from its beginning, into the same messages."""
        self._text, self._note = "", note or self._note

    @property
    def ended(self) -> bool:
        """Whether the answer has its final text."""
        return self._ended

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text

    async def finish(self, reason: FinishReason, usage: Usage | None = None, error: str = "") -> None:
        """Store the end of the answer and then show it."""
        frames = self._final_frames(reason, usage, error)
        if self._withdrawn and not self._text.strip() and self._delivery.call_off():
            frames = []
        answer = None if reason is FinishReason.ERROR or not self._text.strip() else self._before + self._text
        for attempt in range(10_000):
            try:
                await self._storage.inbox.finish(
                    self.request.request_id,
                    _STATUS[reason],
                    finish_reason=reason,
                    usage=usage,
                    error=error,
                    answer=answer,
                    replies=frames,
                )
                break
            except StorageError as problem:
                log.error("The end of an answer could not be stored yet: %s", problem)
                await asyncio.sleep(min(5.0, 0.5 * (attempt + 1)))
        self._ended = True
        self._said.set()
        self._delivery.show(frames)

    def _show(self) -> None:
        self._delivery.show(self._frames())

    def _frames(self) -> list[Reply]:
        """The messages while the answer is being written."""
        limits = self._adapter.limits
        text = self._shown()
        if not text:
            return [self._reply(0, "", self._line, (ActionKind.STOP,))] if self._line else []
        parts = split(text, limits.max_chars - len(limits.cursor))
        frames = [self._reply(number, part.text, "", ()) for number, part in enumerate(parts[:-1])]
        growing = parts[-1]
        tail = growing.text[growing.committed :] + limits.cursor
        frames.append(self._reply(len(frames), growing.text[: growing.committed], tail, ()))
        frames[0] = replace(frames[0], buttons=(ActionKind.STOP,))
        return frames

    def _final_frames(self, reason: FinishReason, usage: Usage | None, error: str) -> list[Reply]:
        text = self._shown().rstrip()
        if reason is FinishReason.ERROR:
            text = f"{text}\n\n⚠️ {error}".strip()
        elif not text:
            text = "Stopped." if reason is FinishReason.ABORT else "(The model had nothing to say.)"
        frames = [
            replace(self._reply(number, part.text, "", ()), final=True)
            for number, part in enumerate(split(text, self._adapter.limits.max_chars))
        ]
        # The first part carries the buttons: by them it is recognised as ours after a crash.
        frames[0] = replace(frames[0], buttons=_buttons_after(reason))
        frames[-1] = replace(frames[-1], finish_reason=reason, usage=usage)
        return frames

    def _shown(self) -> str:
        if not self._text.strip():
            return ""
        fence = open_fence(self._before)  # a message of its own must open the code that it goes on with
        text = f"{fence}\n{self._text.lstrip(chr(10))}" if fence else self._text.lstrip()
        return f"{self._note}\n\n{text}" if self._note else text

    def _reply(self, part: int, committed: str, tail: str, buttons: tuple[ActionKind, ...]) -> Reply:
        request = self.request
        return Reply(
            reply_id=reply_id(request.request_id, part),
            request_id=request.request_id,
            key=request.key,
            part=part,
            question_id=request.message_id,
            asker=request.author,
            committed=committed,
            tail=tail,
            buttons=buttons,
        )

    async def _keep_typing(self) -> None:
        while not self._text and not self._ended:
            self._said.clear()
            with contextlib.suppress(Exception):  # a sign of life is not worth an error
                await self._adapter.status(self.request.key, self._line)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._said.wait(), TYPING_S)


def _buttons_after(reason: FinishReason) -> tuple[ActionKind, ...]:
    if reason is FinishReason.ERROR:
        return (ActionKind.REGENERATE,)
    more = (ActionKind.CONTINUE,) if reason in (FinishReason.LENGTH, FinishReason.ABORT) else ()
    return (ActionKind.REGENERATE, *more, ActionKind.GOOD, ActionKind.BAD)


class Replies:
    """All answers that are not final yet, by request id."""

    def __init__(self, storage: Storage, adapters: Mapping[str, Adapter]) -> None:
        self._storage, self._adapters = storage, adapters
        self._live: dict[str, LiveReply] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self, request: GenerationRequest, *, recall: bool = False) -> LiveReply:
        """Begin to show the answer to `request`."""
        live = LiveReply(request, self._adapters[request.key.platform], self._storage, recall=recall)
        self._live[request.request_id] = live
        self._run(request.request_id, live.run())
        return live

    def get(self, request_id: str) -> LiveReply | None:
        """The answer to a request, while it is not final."""
        return self._live.get(request_id)

    def resume(self, unsettled: Sequence[StoredReply]) -> None:
        """Go on with final texts that an earlier process stored and did not get to show."""
        by_request: dict[str, list[Reply]] = {}
        for stored in unsettled:
            by_request.setdefault(stored.reply.request_id, []).append(stored.reply)
        for request_id, replies in by_request.items():
            if replies[0].key.platform in self._adapters:
                delivery = Delivery(self._adapters[replies[0].key.platform], self._storage.outbox, request_id)
                delivery.show([replace(reply, platform_id=None) for reply in replies])
                self._run(request_id, delivery.run())

    async def settled(self, seconds: float) -> None:
        """Wait until every final text is shown, at most this long, and leave the rest to the next start."""
        ending = [task for name, task in self._tasks.items() if name not in self._live or self._live[name].ended]
        if ending:
            await asyncio.wait(ending, timeout=seconds)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _run(self, request_id: str, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"reply {request_id}")
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._close(request_id))

    def _close(self, request_id: str) -> None:
        self._tasks.pop(request_id, None)
        self._live.pop(request_id, None)
