"""From a message to a stored turn and a request, and from a request to the prompt that it needs.

In: messages of the adapters. Out: requests, through `submit`, and prompts for the worker. It promises: a message is
handled once, however often it is delivered; its turn and its request are stored in one transaction, or the sender is
told why not; a prompt holds turns of exactly one conversation.
"""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from bot.conversations.request_queue import PersonKey, RequestQueue
from bot.models.runtime_config import Current
from bot.storage import NewTurn, Storage, StoredRequest, as_turn, undisturbed
from bot.types.display_names import one_line
from bot.types.errors import QueueFull
from bot.types.messages import (
    Accepted,
    Attachment,
    ConversationKey,
    GenerationRequest,
    IncomingMessage,
    MessageDeleted,
    MessageEdited,
    Outcome,
    Person,
    Prompt,
    Refused,
    RequestKind,
    Role,
    SamplingParams,
)

HISTORY_STEP = 100
"""Turns that a very long history loses at once, so that the prompt's beginning, and its cache, mostly stay."""
REMEMBERED = 2000
"""Conversations of which it is known which model answered last."""

KNOWN = 5000
"""Messages of which it is known without asking storage that they were stored."""

KNOWN_S = 3600.0
"""So long ago an earlier process may have stored what comes again now."""

Identity = tuple[str, ...]
"""Platform, workspace, channel and message id. A thread does not tell messages apart."""
Submit = Callable[[GenerationRequest], None]


class Conversations:
    """What was said, and what is owed for it."""

    def __init__(self, current: Current, storage: Storage, queue: RequestQueue) -> None:
        self._current, self._storage, self._queue = current, storage, queue
        self._known: OrderedDict[Identity, None] = OrderedDict()  # the messages that were stored last
        self._storing: dict[Identity, asyncio.Event] = {}  # those that are being stored, and when that has ended
        self.redelivered = 0
        """Messages that came again and were dropped."""
        self._good: OrderedDict[ConversationKey, str] = OrderedDict()  # the model that last answered, by conversation

    async def message(self, event: IncomingMessage, submit: Submit, *, patient: bool = False) -> Outcome:
        """Store a message that addresses the bot and ask for its answer. Raises StorageError.

        patient: where the queue is full, wait for a place instead of refusing.
        """
        if not event.addressed and not await self._goes_on(event):
            return Accepted()
        text = text_with_files(event.text, event.attachments)
        if not text.strip():
            return Refused(event.remark or "There was no text in that message for me to answer.")
        turns = [_turn(earlier) for earlier in event.context] + [_turn(replace(event, text=text, attachments=()))]
        person = (event.key.platform, event.author.id)
        while True:
            try:
                return await self._accept(event, turns, person, submit)
            except QueueFull as error:
                if not patient:
                    return Refused(str(error))
            await self._queue.room_for(person)

    async def load(self) -> None:
        """Remember the messages that an earlier process stored last. Raises StorageError."""
        for identity in await self._storage.inbox.latest_seen(time.time() - KNOWN_S, KNOWN):
            self._known[identity] = None

    async def _accept(
        self, event: IncomingMessage, turns: Sequence[NewTurn], person: PersonKey, submit: Submit
    ) -> Accepted:
        """Raises QueueFull, before storage is asked, and StorageError."""
        identity = (event.key.platform, event.key.workspace, event.key.channel, event.message_id)
        # A copy must neither take a second place nor be refused for want of the place of the first one.
        while (first := self._storing.get(identity)) is not None:
            await first.wait()
        if identity not in self._known:
            place = ExitStack()
            place.enter_context(self._queue.place_for(person))
            stored = self._storing[identity] = asyncio.Event()
            try:
                request = await self._store(event, turns, place, submit)
            finally:
                del self._storing[identity]
                stored.set()
            self._remember(identity)
            if request is not None:
                return Accepted(request.request_id)
        self.redelivered += 1
        return Accepted()

    @undisturbed  # what is stored is also submitted, whatever becomes of who delivered it
    async def _store(
        self, event: IncomingMessage, turns: Sequence[NewTurn], place: ExitStack, submit: Submit
    ) -> GenerationRequest | None:
        """Store a message and submit its request, which has a place; None if it was stored, or deleted, before."""
        make = partial(self._request, event.key, event.message_id, event.author, RequestKind.ANSWER, event.remark)
        with place:
            request = await self._storage.inbox.ask(event.key, event.message_id, turns, make)
            if request is not None:
                submit(request)
        return request

    def _remember(self, identity: Identity) -> None:
        self._known[identity] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    @undisturbed
    async def again(
        self, key: ConversationKey, message_id: str, actor: Person, kind: RequestKind, submit: Submit
    ) -> Accepted:
        """Store a further request for a message: another answer, or more of its answer. Raises RequestRefused."""
        with self._queue.place_for((key.platform, actor.id)):
            request = await self.request(key, message_id, actor, kind)
            await self._storage.inbox.add_request(request)
            submit(request)
        return Accepted(request.request_id)

    async def request(
        self,
        key: ConversationKey,
        message_id: str,
        author: Person,
        kind: RequestKind = RequestKind.ANSWER,
        remark: str = "",
    ) -> GenerationRequest:
        """A request with the settings of its conversation, not stored yet."""
        return self._request(key, message_id, author, kind, remark, await self._storage.history.resolved(key))

    def _request(
        self,
        key: ConversationKey,
        message_id: str,
        author: Person,
        kind: RequestKind,
        remark: str,
        chosen: Mapping[str, str],
    ) -> GenerationRequest:
        return GenerationRequest(
            request_id=uuid.uuid4().hex,
            key=key,
            message_id=message_id,
            author=replace(author, name=storable(author.name)),
            model=self.model_of(chosen),
            params=self.params_of(chosen, another=kind is RequestKind.REGENERATE),
            attempts=0,
            accepted_at=time.time(),
            wait_left_s=self._current.settings.deadline,
            kind=kind,
            remark=remark,
        )

    async def prompt(self, request: GenerationRequest) -> Prompt | None:
        """What the engine is to read for a request; None if its message is no longer stored."""
        turns = await self._storage.history.turns(request.key, until=request.message_id, step=HISTORY_STEP)
        if not turns or turns[-1].message_id != request.message_id:
            return None
        prefix = ""
        if request.kind is RequestKind.CONTINUE:
            prefix = await self.answer(request.key, request.message_id)
        chosen = await self._storage.history.resolved(request.key)
        self._good[request.key] = request.model
        self._good.move_to_end(request.key)
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)
        return Prompt(self.system_of(chosen, request.model), tuple(map(as_turn, turns)), prefix)

    async def last_question(self, key: ConversationKey) -> StoredRequest | None:
        """The newest request for the newest message of a conversation that made one and is still stored."""
        for turn in reversed(await self._storage.history.turns(key, limit=50)):
            if turn.role is Role.USER and (requests := await self._storage.inbox.of_message(key, turn.message_id)):
                return requests[-1]
        return None

    async def answer(self, key: ConversationKey, message_id: str) -> str:
        """The stored answer to a message, or ''."""
        turns = await self._storage.history.turns(key, hidden=True)
        answers = [turn.text for turn in turns if turn.role is Role.ASSISTANT and turn.message_id == message_id]
        return answers[-1] if answers else ""

    async def roll_back(self, request: GenerationRequest) -> str | None:
        """Set a conversation whose model does not load back to a good one; its name, or None if there is no other."""
        good = self._good.get(request.key, self._current.catalog.default)
        if good == request.model:
            good = self._current.catalog.default
        if good == request.model:
            return None
        for key in (request.key, replace(request.key, thread="")):
            if (await self._storage.history.settings(key)).get("model") == request.model:
                await self._storage.history.set(key, "model", None if good == self._current.catalog.default else good)
        return good

    async def edited(self, event: MessageEdited) -> bool:
        """Bring a stored turn up to date with its message; whether that changed it."""
        text = text_with_files(event.text, event.attachments)
        return await self._storage.history.edit(event.key, event.message_id, text, everywhere=True)

    async def deleted(self, event: MessageDeleted) -> Outcome:
        """Remove a message, and its answer, from what is stored."""
        await self._storage.history.remove_message(event.key, event.message_id, everywhere=True)
        return Accepted()

    async def following(self, key: ConversationKey) -> bool:
        """Whether anything was said or asked in this conversation before."""
        return await self._storage.history.following(key)

    async def _goes_on(self, event: IncomingMessage) -> bool:
        """Whether a message is the next one of a thread that the bot takes part in."""
        if not event.key.thread or not self._current.settings.follow_threads:
            return False
        return await self.following(event.key)

    def model_of(self, chosen: Mapping[str, str]) -> str:
        """The model of a conversation with these settings; the default if the chosen one is no longer offered."""
        catalog = self._current.catalog  # looked at once: this also runs on the thread that writes
        model = chosen.get("model", catalog.default)
        return model if model in catalog.names else catalog.default

    def params_of(self, chosen: Mapping[str, str], *, another: bool = False) -> SamplingParams:
        """The sampling parameters of a conversation with these settings.

        The model's own temperature holds where nobody set one; not for another answer, which at 0 would be the same.
        """
        settings = self._current.settings
        temperature = settings.temperature
        own = self._current.catalog.get(self.model_of(chosen)).temperature
        if own is not None and not another and "temperature" not in settings.model_fields_set:
            temperature = own
        return SamplingParams(
            temperature=float(chosen.get("temperature", temperature)),
            top_p=float(chosen.get("top_p", settings.top_p)),
            repetition_penalty=settings.repetition_penalty,
            max_tokens=int(chosen.get("max_tokens", settings.max_tokens)),
        )

    def system_of(self, chosen: Mapping[str, str], model: str) -> str:
        """The system prompt of a conversation with these settings: its own, else the operator's, else the model's.

        Raises ModelError if the model is no longer in the catalog.
        """
        own = self._current.settings.system_prompt
        return chosen.get("system", self._current.catalog.get(model).system if own is None else own)


def text_with_files(text: str, attachments: Sequence[Attachment]) -> str:
    """A message and the files that came with it, as one text. A file's name stays on its line, whatever is in it."""
    files = [f"[file {one_line(one.name)}]\n{one.text}\n[end of file]" for one in attachments]
    return storable("\n\n".join(part for part in (text, *files) if part))


def storable(text: str) -> str:
    """The text with a '?' for every half of a surrogate pair, which JSON can bring in and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _turn(event: IncomingMessage) -> NewTurn:
    return NewTurn(
        key=event.key,
        role=Role.USER,
        author_id=event.author.id,
        author=storable(event.author.name),
        text=text_with_files(event.text, event.attachments),
        message_id=event.message_id,
        sent_at=event.sent_at,
    )
