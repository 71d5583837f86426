"""Decides what text is shown of an answer, and when.

The worker reports on one request (it waits, here is more text, it ended like this); its Delivery gets frames. The first
words go out at once, everything shown is a beginning of the answer, and the final text is stored before it is shown.
Frames are composed on a thread: text whose rendering fails or takes too long is shown as plain text.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace

from bot.platforms.adapter import Adapter
from bot.replies.compose_thread import ComposeThread
from bot.replies.delivery import VOID, Delivery
from bot.replies.links import urls_in
from bot.replies.renderer import FILE, INTERRUPTED, Composer, PlainComposer
from bot.storage import Storage, StoredReply
from bot.types.errors import StorageError
from bot.types.messages import (
    ActionKind,
    Attachment,
    FinishReason,
    GenerationRequest,
    Prompt,
    Reply,
    RequestStatus,
    Role,
    Usage,
)

SHOWN_AGAIN = 2
"""Killed runs of the service after which an answer is no longer rendered, but comes as a file."""

GIVEN_UP = "I was stopped three times while writing or showing this, so I gave it up."
"""The error of an answer whose file was not shown either."""

log = logging.getLogger(__name__)

TYPING_S = 8.0
"""How often to say again that something is going on; platforms forget it after ten seconds."""

_STATUS = {
    FinishReason.STOP: RequestStatus.FINISHED,
    FinishReason.LENGTH: RequestStatus.FINISHED,
    FinishReason.ABORT: RequestStatus.CANCELLED,
    FinishReason.ERROR: RequestStatus.FAILED,
}


class LiveReply:
    """One answer, from the moment that it is owed until its last message is final.

    `recall`: an earlier process may have posted some of it.
    """

    def __init__(self, request: GenerationRequest, adapter: Adapter, storage: Storage, *, recall: bool) -> None:
        self.request = request
        self._adapter, self._storage = adapter, storage
        self._delivery = Delivery(adapter, storage.outbox, request.request_id if recall else "")
        self._composer = Composer(request, adapter.limits, note=request.remark)
        self._thread = ComposeThread()
        self._plain = False  # rendering took too long once
        self._as_file = request.service_runs >= SHOWN_AGAIN  # perhaps showing it is what killed the service
        self._text, self._line, self._ended = "", "", False
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
        # Where text is only appended, a line could not be taken back; outside of threads nothing is appended.
        if not self._adapter.limits.appends or not self.request.key.thread:
            self._show()

    async def begins(self, prompt: Prompt) -> None:
        """This is read now: its question, the URLs that people wrote, the text that the answer goes on with."""
        said = [turn.text for turn in prompt.turns if turn.role is Role.USER]
        with contextlib.suppress(TimeoutError):  # then every URL is shown as code
            self._composer.links = await self._thread.run(lambda: frozenset().union(*map(urls_in, said)))
        self._composer.before, self._composer.edited = prompt.prefix, False

    def question_edited(self) -> None:
        """The question is no longer what is being answered: another answer is to be offered."""
        self._composer.edited = True

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
        self._text = ""
        if note:
            self._composer.note = "\n\n".join(filter(None, [self.request.remark, note]))

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
        silent = self._withdrawn and not self._text.strip() and self._delivery.call_off()
        text, replies, edited = self._text, list[Reply](), False

        def final(composer: Composer) -> list[Reply]:
            return (composer.as_file if self._as_file else composer.final)(text, reason, usage, error)

        answer = None if reason is FinishReason.ERROR or not self._text.strip() else self._composer.before + self._text
        for attempt in range(10_000):
            try:
                dropped = usage is not None and usage.dropped_turns > 0
                self._composer.outgrown = dropped and not await self._storage.inbox.outgrew(self.request.key)
                edited = self._composer.edited
                replies = [] if silent else await self._composed(final)
                await self._storage.inbox.finish(
                    self.request.request_id,
                    _STATUS[reason],
                    finish_reason=reason,
                    usage=usage,
                    error=error,
                    answer=answer,
                    replies=replies,
                )
                break
            except StorageError as problem:
                log.error("The end of an answer could not be stored yet: %s", problem)
                await asyncio.sleep(min(5.0, 0.5 * (attempt + 1)))
        self._ended = True
        self._said.set()
        if silent:
            with contextlib.suppress(Exception):  # it goes away by itself, too
                await self._adapter.status(self.request.key, None)
        elif self._composer.edited != edited:
            replies = await self._composed(final)
        self._delivery.show(replies)

    def _show(self) -> None:
        self._delivery.grow(self._growing)

    async def _growing(self) -> list[Reply]:
        text, line = "" if self._as_file else self._text, self._line
        if self._plain:
            return PlainComposer.of(self._composer).growing(text, line)
        return await self._composed(lambda composer: composer.growing(text, line))

    async def _composed(self, compose: Callable[[Composer], list[Reply]]) -> list[Reply]:
        """Frames in the platform's dialect, or plain ones where rendering fails or exceeds its budget."""
        composer = replace(self._composer)
        try:
            return await self._thread.run(lambda: compose(composer))
        except TimeoutError:
            problem = "took too long"
        except Exception as error:  # a bug in the rendering must not lose the answer
            problem = f"failed ({type(error).__name__})"
        if not self._plain:
            about = {"request_id": self.request.request_id, "characters": len(self._text)}
            log.warning("The rendering of an answer %s; it is shown as plain text", problem, extra=about)
        self._plain = True
        return compose(PlainComposer.of(composer))

    async def _keep_typing(self) -> None:
        while not self._text and not self._ended:
            self._said.clear()
            with contextlib.suppress(Exception):  # a sign of life is not worth an error
                await self._adapter.status(self.request.key, self._line)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._said.wait(), TYPING_S)


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
        by_request: dict[str, list[StoredReply]] = {}
        for stored in unsettled:
            if stored.reply.key.platform in self._adapters:
                by_request.setdefault(stored.reply.request_id, []).append(stored)
        for request_id, parts in by_request.items():
            self._run(request_id, self._resume(request_id, parts))

    async def _resume(self, request_id: str, parts: Sequence[StoredReply]) -> None:
        replies = [replace(part.reply, platform_id=None) for part in parts]
        try:
            await self._storage.outbox.begin_showing(request_id)
            if parts[0].service_runs >= SHOWN_AGAIN:
                replies = await self._as_file(replies, give_up=parts[0].service_runs > SHOWN_AGAIN)
                await self._storage.outbox.replace_final(replies)
        except StorageError as problem:  # what is owed is shown, even if nobody can count how often
            log.error("It could not be stored that an answer is shown again: %s", problem)
        delivery = Delivery(self._adapters[replies[0].key.platform], self._storage.outbox, request_id)
        delivery.show(replies)
        await delivery.run()

    async def _as_file(self, replies: Sequence[Reply], *, give_up: bool) -> list[Reply]:
        """The answer as a file in the first of these messages, or an error where that was tried; the rest is void."""
        first, last = replies[0], replies[-1]
        text = await self._storage.outbox.answer(first.request_id) or "\n\n".join(each.committed for each in replies)
        return [
            replace(
                first,
                committed=f"⚠️ {GIVEN_UP}" if give_up else INTERRUPTED,
                attachment=None if give_up else last.attachment or Attachment(FILE, text),
                finish_reason=last.finish_reason,
                usage=last.usage,
            ),
            *(replace(each, committed=VOID, attachment=None, finish_reason=None, usage=None) for each in replies[1:]),
        ]

    def offer_rerun(self, request_id: str) -> None:
        """The question of this request was edited: the first message of its answer gets a button to answer it anew."""
        live = self._live.get(request_id)
        if live is not None and not live.ended:
            live.question_edited()
        else:
            self._run(f"{request_id} again", self._show_rerun(request_id, self._tasks.get(request_id)))

    async def _show_rerun(self, request_id: str, showing: asyncio.Task[None] | None) -> None:
        if showing is not None:  # a message must not be in two hands
            await asyncio.wait([showing])
        with contextlib.suppress(StorageError):  # an offer that nobody is owed
            parts = await self._storage.outbox.of_request(request_id)
            first = parts[0].reply if parts else None
            if first is None or not first.platform_id or not first.committed:
                return
            others = tuple(kind for kind in first.buttons if kind not in (ActionKind.REGENERATE, ActionKind.RERUN))
            delivery = Delivery(self._adapters[first.key.platform], self._storage.outbox, request_id)
            delivery.show([replace(first, platform_id=None, buttons=(ActionKind.RERUN, *others))])
            await delivery.run()

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
