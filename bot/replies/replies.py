"""Decides which text of an answer is shown, and when.

The worker reports the progress of a request; the request's Delivery gets frames. The first text is shown at once, each
frame shows a prefix of the answer, and the final text is stored before it is shown. Frames are composed on a thread;
text whose rendering fails or takes too long is shown as plain text.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace

from bot.observability.metrics import Metrics
from bot.platforms.adapter import Adapter
from bot.replies.compose_thread import ComposeThread
from bot.replies.delivery import VOID, Delivery, FailureLog
from bot.replies.links import urls_in
from bot.replies.renderer import FILE, INTERRUPTED, PlainRenderer, Renderer
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
"""Number of killed service runs from which an answer is sent as a file instead of rendered."""

GIVEN_UP = "I was stopped three times while writing or showing this, so I gave it up."
"""Error for an answer whose file could not be shown either."""

log = logging.getLogger(__name__)

TYPING_S = 8.0
"""Interval for repeating the typing status; platforms clear it after ten seconds."""
THINKING_S = 3.0
"""Interval for counting the seconds of thoughts."""
MOST_THOUGHTS = 200_000
"""Most characters of thoughts that are kept, from their beginning."""

STATUS = {
    FinishReason.STOP: RequestStatus.FINISHED,
    FinishReason.LENGTH: RequestStatus.FINISHED,
    FinishReason.ABORT: RequestStatus.CANCELLED,
    FinishReason.ERROR: RequestStatus.FAILED,
}


class LiveReply:
    """One answer, from the acceptance of its request until its last message is final.

    `recall`: an earlier process may have posted parts of it. `link_hosts`: hosts whose URLs stay links.
    """

    def __init__(
        self,
        request: GenerationRequest,
        adapter: Adapter,
        storage: Storage,
        *,
        recall: bool,
        metrics: Metrics,
        link_hosts: Iterable[str] = (),
    ) -> None:
        self.request = request
        self._adapter, self._storage = adapter, storage
        self._delivery = Delivery(adapter, storage.outbox, metrics, request.request_id if recall else "")
        self._composer = Renderer(request, adapter.limits, note=request.remark, link_hosts=frozenset(link_hosts))
        self._thread = ComposeThread()
        self._plain = False  # rendering failed or timed out before
        self._as_file = request.service_runs >= SHOWN_AGAIN  # rendering it may have killed the service
        self._text, self._line, self._ended = "", "", False
        self._thoughts = ""
        self._thinking_since: float | None = None  # monotonic; thoughts are written, and no text
        self._said = asyncio.Event()
        self._over = asyncio.Event()  # its end is stored, or another host goes on with it
        self._withdrawn = False

    async def run(self) -> None:
        """Deliver until the answer is final."""
        typing = asyncio.create_task(self._keep_typing())
        try:
            await self._delivery.run()
            await self._over.wait()  # else the request would seem to be lost while its end is being stored
        finally:
            typing.cancel()

    def set_status(self, line: str) -> None:
        """Set the status line shown while there is no text (queue position, load progress); '' for none."""
        if line == self._line or self._text.strip() or self._ended:
            return
        self._line = line
        self._said.set()
        # Append-only messages cannot take a status line back, except those that are rewritten after a restart.
        # Outside of threads nothing is appended.
        if not self._adapter.limits.appends or not self.request.key.thread or self._delivery.posted:
            self._show()

    async def set_prompt(self, prompt: Prompt) -> None:
        """Take the links and the prefix from the prompt that the engine now reads."""
        said = [turn.text for turn in prompt.turns if turn.role is Role.USER]
        with contextlib.suppress(TimeoutError):  # all URLs are shown as code then
            self._composer.links = await self._thread.run(lambda: frozenset().union(*map(urls_in, said)))
        self._composer.before, self._composer.edited = prompt.prefix, False

    def release(self) -> None:
        """Show nothing more; what is stored and shown stays as it is."""
        self._over.set()
        self._delivery.abandon()

    def question_edited(self) -> None:
        """Offer a rerun, because the question was edited."""
        self._composer.edited = True

    def withdraw(self) -> None:
        """Note that the question was deleted: show nothing if nothing was shown yet."""
        self._withdrawn = True

    def push(self, text: str) -> None:
        """Append text to the answer."""
        if text:
            self._text += text
            if text.strip():
                self._thinking_since = None
            self._show()

    def think(self, text: str) -> None:
        """Append text to the thoughts, of which only their time is shown, until there is text."""
        self._thoughts = f"{self._thoughts}{text}"[:MOST_THOUGHTS]
        if self._thinking_since is None and not self._text.strip():
            self._thinking_since = time.monotonic()
            self._show_thinking()

    def retract(self) -> None:
        """Move the text so far to the thoughts, of which it turned out to be a part."""
        text, self._text = self._text, ""
        self.think(text)
        self._show()

    def restart(self, note: str = "") -> None:
        """Discard the text and the thoughts so far; the new answer is written into the same messages."""
        self._text = self._line = self._thoughts = ""
        self._thinking_since = None
        if note:
            self._composer.note = "\n\n".join(filter(None, [self.request.remark, note]))

    def add_note(self, sentence: str) -> None:
        """Show a sentence above the answer."""
        if sentence not in self._composer.note:
            self._composer.note = "\n\n".join(filter(None, [self._composer.note, sentence]))

    @property
    def ended(self) -> bool:
        """Whether the answer has its final text."""
        return self._ended

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text

    async def finish(self, reason: FinishReason, usage: Usage | None = None, error: str = "") -> None:
        """Store the final answer, then show it. Retries while storage fails.

        After GIVE_UP_S nothing is shown: the request stays unfinished in storage, and the next start repeats it.
        """
        error = error.encode("utf-8", "replace").decode()  # a path in it may hold half of a surrogate pair
        text, replies, edited, silent = self._text, list[Reply](), False, False
        self._composer.thought = bool(self._thoughts.strip())

        def final(composer: Renderer) -> list[Reply]:
            return (composer.render_as_file if self._as_file else composer.render_final)(text, reason, usage, error)

        answer = None if reason is FinishReason.ERROR or not self._text.strip() else self._composer.before + self._text
        failures, attempt = FailureLog(), 0
        while True:
            try:
                silent = self._withdrawn and not text.strip() and await self._delivery.call_off()
                dropped = usage is not None and usage.dropped_turns > 0
                self._composer.outgrown = dropped and not await self._storage.inbox.outgrew(self.request.key)
                edited = self._composer.edited
                replies = [] if silent else await self._composed(final)
                await self._storage.inbox.finish(
                    self.request.request_id,
                    STATUS[reason],
                    finish_reason=reason,
                    usage=usage,
                    error=error,
                    answer=answer,
                    replies=replies,
                    thoughts="" if reason is FinishReason.ERROR or silent else self._thoughts.strip(),
                )
                break
            except StorageError as problem:
                attempt += 1
                due = failures.failed() or attempt == 1
                if due and not self._storage.taken:  # else the end of the service counts all of them
                    log.error("The end of an answer could not be stored yet: %s", problem)
                if failures.expired:
                    log.error("The end of an answer was never stored; its question is answered again at the next start")
                    self._end()
                    self._delivery.abandon()
                    return
                await asyncio.sleep(min(5.0, 0.5 * attempt))
        self._end()
        if silent:
            with contextlib.suppress(Exception):  # the platform clears its status by itself
                await self._adapter.status(self.request.key, None)
        elif self._composer.edited != edited:
            replies = await self._composed(final)
        self._delivery.show(replies)

    def _end(self) -> None:
        self._ended = True
        self._said.set()
        self._over.set()

    def _show_thinking(self) -> None:
        if self._thinking_since is not None:
            seconds = int((time.monotonic() - self._thinking_since) // THINKING_S * THINKING_S)
            self.set_status(f"thinking, {seconds} s" if seconds else "thinking")

    def _show(self) -> None:
        self._delivery.grow(self._render_partial)

    async def _render_partial(self) -> list[Reply]:
        text, line = "" if self._as_file else self._text, self._line
        if self._plain:
            return PlainRenderer.of(self._composer).render_partial(text, line)
        if not text:
            return self._composer.render_partial("", line)  # a short line of ours; a thread per waiting message is slow
        return await self._composed(lambda composer: composer.render_partial(text, line))

    async def _composed(self, compose: Callable[[Renderer], list[Reply]]) -> list[Reply]:
        """Compose frames in the platform's dialect, or as plain text if rendering fails or times out."""
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
        return compose(PlainRenderer.of(composer))

    async def _keep_typing(self) -> None:
        while not self._ended:
            self._said.clear()
            self._show_thinking()
            if not self._text:  # also after a restart
                with contextlib.suppress(Exception):  # a failed typing status is not worth an error
                    await self._adapter.status(self.request.key, self._line)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._said.wait(), TYPING_S if self._thinking_since is None else THINKING_S)


class Replies:
    """All unfinished answers, by request id."""

    def __init__(
        self,
        storage: Storage,
        adapters: Mapping[str, Adapter],
        metrics: Metrics,
        link_hosts: Callable[[], Iterable[str]],
    ) -> None:
        self._storage, self._adapters = storage, adapters
        self._metrics, self._link_hosts = metrics, link_hosts
        self._live: dict[str, LiveReply] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self, request: GenerationRequest, *, recall: bool = False) -> LiveReply:
        """Start to show the answer to `request`; returns the open answer if there is one.

        recall: an earlier process may have posted parts of it.
        """
        if (live := self._live.get(request.request_id)) is not None:
            return live
        adapter, hosts = self._adapters[request.key.platform], self._link_hosts()
        live = LiveReply(request, adapter, self._storage, recall=recall, metrics=self._metrics, link_hosts=hosts)
        self._live[request.request_id] = live
        self._run(request.request_id, live.run())
        return live

    def get(self, request_id: str) -> LiveReply | None:
        """The answer to a request, while it is not final."""
        return self._live.get(request_id)

    async def release(self, request_id: str) -> None:
        """Stop to show an answer, and wait until its call in flight has ended: another host goes on with it."""
        live, task = self._live.get(request_id), self._tasks.get(request_id)
        if live is not None and task is not None:
            live.release()
            await asyncio.wait([task])

    def resume(self, undelivered: Sequence[StoredReply]) -> None:
        """Show the final texts that an earlier process stored but did not deliver."""
        by_request: dict[str, list[StoredReply]] = {}
        for stored in undelivered:
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
        except StorageError as problem:  # show the answer even if the attempt cannot be counted
            log.error("It could not be stored that an answer is shown again: %s", problem)
        delivery = Delivery(self._adapters[replies[0].key.platform], self._storage.outbox, self._metrics, request_id)
        delivery.show(replies)
        await delivery.run()

    async def _as_file(self, replies: Sequence[Reply], *, give_up: bool) -> list[Reply]:
        """Replace the messages by one with the answer as a file, or with an error (`give_up`); void the others."""
        first, last = replies[0], replies[-1]
        text = await self._storage.outbox.answer(first.request_id) or "\n\n".join(each.committed for each in replies)
        file = next((each.attachment for each in replies if each.attachment), Attachment(FILE, text))
        return [
            replace(
                first,
                committed=f"⚠️ {GIVEN_UP}" if give_up else INTERRUPTED,
                attachment=None if give_up else file,
                finish_reason=last.finish_reason,
                usage=last.usage,
            ),
            *(replace(each, committed=VOID, attachment=None, finish_reason=None, usage=None) for each in replies[1:]),
        ]

    def offer_rerun(self, request_id: str) -> None:
        """Add a rerun button to the first message of an answer whose question was edited."""
        live = self._live.get(request_id)
        if live is not None and not live.ended:
            live.question_edited()
        else:
            self._run(f"{request_id} again", self._show_rerun(request_id, self._tasks.get(request_id)))

    async def _show_rerun(self, request_id: str, showing: asyncio.Task[None] | None) -> None:
        if showing is not None:  # two deliveries must not edit the same message
            await asyncio.wait([showing])
        with contextlib.suppress(StorageError):  # the rerun button is optional
            parts = await self._storage.outbox.of_request(request_id)
            first = parts[0].reply if parts else None
            if first is None or not first.platform_id or not first.committed:
                return
            others = tuple(kind for kind in first.buttons if kind not in (ActionKind.REGENERATE, ActionKind.RERUN))
            delivery = Delivery(self._adapters[first.key.platform], self._storage.outbox, self._metrics, request_id)
            delivery.show([replace(first, platform_id=None, buttons=(ActionKind.RERUN, *others))])
            await delivery.run()

    async def wait_delivered(self, seconds: float) -> None:
        """Wait up to `seconds` until all final texts are shown; the next start delivers the rest."""
        ending = [task for name, task in self._tasks.items() if name not in self._live or self._live[name].ended]
        if ending:
            await asyncio.wait(ending, timeout=seconds)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _run(self, request_id: str, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"reply {request_id}")
        self._tasks[request_id] = task
        task.add_done_callback(lambda ended: self._close(request_id, ended))

    def _close(self, request_id: str, ended: asyncio.Task[None]) -> None:
        if self._tasks.get(request_id) is ended:  # a second edit of a question takes the place of the first
            del self._tasks[request_id]
            self._live.pop(request_id, None)
