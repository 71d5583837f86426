"""Stores incoming messages as turns, queues requests for them and builds prompts.

A message is handled once, even if the platform delivers it again. Its turn and its request are stored in one
transaction, or the sender gets the reason. A prompt has turns of exactly one conversation.
"""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TypeVar

from bot.conversations.bot_limit import BotLimit
from bot.conversations.reply_quotes import DELETED, MAX_CHAIN, with_quotes
from bot.conversations.request_queue import RequestQueue
from bot.conversations.service_order import PersonKey
from bot.models.runtime_config import RuntimeConfig
from bot.models.sampling_defaults import SamplingDefaults
from bot.storage import NewTurn, Storage, StoredRequest, StoredTurn, as_turn, shield_from_cancellation
from bot.storage.inbox import REFUSED
from bot.types.display_names import one_line
from bot.types.errors import STILL_WRITTEN, RequestRefused
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
    Picture,
    Prompt,
    Refused,
    RequestKind,
    Role,
    SamplingParams,
)

HISTORY_STEP = 100
"""Turns dropped at once from a very long history, so that the prompt's prefix and its KV cache stay valid longer."""
MAX_PER_PROMPT = 8
"""Most pictures of a prompt."""
REMEMBERED = 2000
"""Maximum number of conversations whose last working model is remembered, and of messages whose last try is."""

KNOWN = 5000
"""Maximum number of message ids in the in-memory duplicate filter."""

KNOWN_S = 3600.0
"""Maximum age, in seconds, of the message ids that are loaded into the duplicate filter at startup."""

REFUSED_BEFORE = "Too many questions were waiting when this one came, so it is not answered; ask again."

K = TypeVar("K")
V = TypeVar("V")
Identity = tuple[str, ...]
"""Platform, workspace, channel and message id; the thread is not part of a message's identity."""


class Conversations:
    """Stores conversations and creates their requests and prompts."""

    def __init__(
        self,
        current: RuntimeConfig,
        storage: Storage,
        queue: RequestQueue,
        holder: Callable[[ConversationKey], str] = lambda _: "",
    ) -> None:
        """holder: chooses the other host that holds the next request of a conversation, '' for this one."""
        self._current, self._storage, self._queue, self._holder = current, storage, queue, holder
        self._defaults = SamplingDefaults(current)
        self._known: OrderedDict[Identity, None] = OrderedDict()  # messages stored recently
        self._storing: dict[Identity, asyncio.Event] = {}  # messages being stored; the event is set at the end
        self.redelivered = 0
        """Number of duplicate deliveries that were dropped."""
        self._bot_limit = BotLimit()
        self._good: OrderedDict[ConversationKey, str] = OrderedDict()  # model that last answered, by conversation
        self._tried: OrderedDict[tuple[ConversationKey, str], int] = OrderedDict()  # hash of the last try, by message

    async def message(self, event: IncomingMessage) -> Outcome:
        """Store a message addressed to the bot and request its answer. Raises StorageError and QueueFull."""
        if not (event.asker or event.author).is_bot:
            self._bot_limit.reset(event)
        elif not event.addressed:
            return Accepted()  # in a followed thread, only people are answered without a mention
        elif (outcome := self._bot_limit.check(event)) is not None:
            return outcome
        if not event.addressed and not await self._goes_on(event):
            return Accepted()
        text = text_with_files(event.text, event.attachments, event.pictures)
        if not text.strip() and not _asks_target(event):
            return Refused(event.remark or "There was no text in that message for me to answer.")
        turns = [_turn(earlier) for earlier in event.context] + [_turn(event)]
        return await self._accept(event, turns, _counted_person(event))

    async def wait_for_place(self, event: IncomingMessage) -> None:
        """Wait until the queue has a place for the user whose limit a message counts against."""
        await self._queue.wait_for_place(_counted_person(event))

    async def load(self) -> None:
        """Fill the duplicate filter with recently stored messages. Raises StorageError."""
        for identity in await self._storage.inbox.latest_seen(time.time() - KNOWN_S, KNOWN):
            self._known[identity] = None

    async def refuse(self, event: IncomingMessage, reason: str) -> Outcome:
        """Store that a message was refused, so that no copy of it is answered. Raises StorageError."""
        if not await self._storage.inbox.refuse(event.key, event.message_id):
            return await self._repeated(event)  # another copy was stored meanwhile
        self._remember(_identity(event), _refusal(event))
        return Refused(reason)

    async def _accept(self, event: IncomingMessage, turns: Sequence[NewTurn], person: PersonKey) -> Outcome:
        """Raises QueueFull, before anything is stored, and StorageError."""
        identity = _identity(event)
        # A duplicate must wait here: it must not reserve a second place, nor be refused while the first has it.
        while (first := self._storing.get(identity)) is not None:
            await first.wait()
        if identity not in self._known:
            place = ExitStack()
            place.enter_context(self._queue.place_for(person))
            stored = self._storing[identity] = asyncio.Event()
            try:
                request = await self._store(event, turns, place)
            finally:
                del self._storing[identity]
                stored.set()
            if request is not None:
                self._remember(identity)
                return Accepted(request.request_id)
        return await self._repeated(event)

    async def _repeated(self, event: IncomingMessage) -> Outcome:
        """The outcome of a duplicate: a refusal is repeated, because a crash may have prevented the first one."""
        self.redelivered += 1
        refused = _refusal(event) in self._known
        if _identity(event) not in self._known:
            refused = await self._storage.inbox.seen(event.key, REFUSED + event.message_id)
            self._remember(_identity(event), _refusal(event) if refused else None)
        return Refused(REFUSED_BEFORE) if refused else Accepted()

    @shield_from_cancellation  # a stored request must also be queued, even if the caller is cancelled
    async def _store(
        self, event: IncomingMessage, turns: Sequence[NewTurn], place: ExitStack
    ) -> GenerationRequest | None:
        """Store a message and queue its request; None if the message was stored or deleted before."""
        asker = event.asker or event.author
        make = partial(self._request, event.key, event.message_id, asker, RequestKind.ANSWER, event.remark)
        with place:
            holder = self._holder(event.key)
            request = await self._storage.inbox.ask(event.key, event.message_id, turns, make, holder)
            if request is not None:
                self._queue.put(request, holder)
        return request

    def _remember(self, *identities: Identity | None) -> None:
        self._known.update((identity, None) for identity in identities if identity)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    @shield_from_cancellation
    async def request_again(self, key: ConversationKey, message_id: str, actor: Person, kind: RequestKind) -> Accepted:
        """Store and queue another request for a stored message. Raises RequestRefused."""
        with self._queue.place_for((key.platform, actor.id)):
            request = await self.request(key, message_id, actor, kind)
            holder = self._holder(key)
            if (stored := await self._storage.inbox.add_request(request, holder)) is None:
                raise RequestRefused(STILL_WRITTEN)
            self._queue.put(stored, holder)
        return Accepted(stored.request_id)

    async def request(
        self,
        key: ConversationKey,
        message_id: str,
        author: Person,
        kind: RequestKind = RequestKind.ANSWER,
        remark: str = "",
    ) -> GenerationRequest:
        """Make a request with the settings of its conversation; does not store it."""
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
        """Build the prompt of a request that starts; None if `build_prompt` returns none."""
        prompt = await self.build_prompt(request)
        if prompt is not None:
            _keep(self._good, request.key, request.model)
            _keep(self._tried, (request.key, request.message_id), _undroppable(request, prompt))
        return prompt

    def is_tried(self, request: GenerationRequest, prompt: Prompt) -> bool:
        """Whether the last request for this message had the same model, limits, and text that cannot be left out."""
        return self._tried.get((request.key, request.message_id)) == _undroppable(request, prompt)

    async def build_prompt(self, request: GenerationRequest) -> Prompt | None:
        """Build a prompt; None if the request's message, or the one that it asks about, is no longer stored."""
        turns = await self.turns_read(request.key, request.message_id)
        if not turns or turns[-1].message_id != request.message_id or turns[-1].text == DELETED:
            return None
        prefix = ""
        if request.kind is RequestKind.CONTINUE:
            prefix = await self.answer(request.key, request.message_id)
        chosen = await self._storage.history.resolved(request.key)
        pictures = await self._pictures(turns)
        read = tuple(as_turn(turn, pictures.get(turn.id, ())) for turn in turns)
        return Prompt(self.system_of(chosen, request.model), read, prefix)

    async def turns_read(self, key: ConversationKey, message_id: str) -> list[StoredTurn]:
        """Return the turns that an answer to this message reads, with quotes of what they reply to."""
        history = self._storage.history
        turns = await history.turns(key, until=message_id, step=HISTORY_STEP)
        return with_quotes(turns, await history.replied_to(key, {turn.reply_to for turn in turns}, MAX_CHAIN))

    async def _pictures(self, turns: Sequence[StoredTurn]) -> dict[int, tuple[Picture, ...]]:
        """The pictures that a prompt shows, by the turn's id: the question's, those that it replies to, the newest."""
        replied_to = [turn.id for turn in turns if turn.message_id == turns[-1].reply_to and turn.role is Role.USER]
        newest = [turn.id for turn in reversed(turns)]
        return await self._storage.history.pictures([newest[0], *replied_to, *newest], MAX_PER_PROMPT)

    async def last_question(self, key: ConversationKey) -> StoredRequest | None:
        """Return the newest request for the newest stored question of a conversation."""
        for turn in reversed(await self._storage.history.turns(key, limit=50)):
            if turn.role is Role.USER and (requests := await self._storage.inbox.of_message(key, turn.message_id)):
                return requests[-1]
        return None

    async def answer(self, key: ConversationKey, message_id: str) -> str:
        """Return the stored answer to a message, or ''."""
        turns = await self._storage.history.turns(key, hidden=True)
        answers = [turn.text for turn in turns if turn.role is Role.ASSISTANT and turn.message_id == message_id]
        return answers[-1] if answers else ""

    async def roll_back(self, request: GenerationRequest) -> str | None:
        """Switch a conversation from a model that failed to load to a working one; returns its name, or None."""
        if self._good.get(request.key) == request.model:
            del self._good[request.key]  # else two models that both fail would alternate
        good = self._good.get(request.key, self._current.catalog.default)
        if good == request.model:
            return None
        for key in (request.key, replace(request.key, thread="")):
            if (await self._storage.history.settings(key)).get("model") == request.model:
                await self._storage.history.set(key, "model", None if good == self._current.catalog.default else good)
        return good

    async def edited(self, event: MessageEdited) -> bool:
        """Update a stored turn to its edited message; returns whether it changed."""
        text = text_with_files(event.text, event.attachments, event.pictures)
        return await self._storage.history.edit(
            event.key, event.message_id, text, event.pictures, edited_at=event.edited_at, everywhere=True
        )

    async def deleted(self, event: MessageDeleted) -> Outcome:
        """Delete a message and its answer from storage."""
        await self._storage.history.remove_message(event.key, event.message_id, everywhere=True)
        return Accepted()

    async def following(self, key: ConversationKey) -> bool:
        """Whether this conversation has stored turns or requests."""
        return await self._storage.history.following(key)

    async def _goes_on(self, event: IncomingMessage) -> bool:
        """Whether a message continues a thread that the bot takes part in."""
        if not event.key.thread or not self._current.settings.follow_threads or not await self.following(event.key):
            return False
        # Platforms deliver in any order: a message may come after the one that asked the bot about it.
        first = await self._storage.history.first_asked_at(event.key)
        return first is None or event.sent_at >= first

    def model_of(self, chosen: Mapping[str, str]) -> str:
        """The model of a conversation with these settings; the default if no host has the chosen one."""
        catalog = self._current.catalog  # read once: this also runs on the storage writer's thread
        model = chosen.get("model", catalog.default)
        return model if model in catalog.names or model in self._current.elsewhere else catalog.default

    def params_of(self, chosen: Mapping[str, str], *, another: bool = False) -> SamplingParams:
        """Return the sampling parameters of a conversation with these settings.

        `another`: a model's own temperature of 0 does not count, since the new answer would equal the old one.
        """
        settings = self._current.settings
        own = self._defaults.of(self.model_of(chosen), greedy=not another)
        return SamplingParams(
            temperature=float(chosen.get("temperature", own["temperature"].value)),
            top_p=float(chosen.get("top_p", own["top_p"].value)),
            top_k=int(own["top_k"].value),
            min_p=own["min_p"].value,
            repetition_penalty=own["repetition_penalty"].value,
            presence_penalty=own["presence_penalty"].value,
            max_tokens=int(chosen.get("max_tokens", settings.max_tokens)),
            think=chosen.get("think", ""),
            think_tokens=settings.think_tokens,
        )

    def sources_of(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """Return where each sampling parameter comes from that a conversation with these settings did not set."""
        return {name: each.source for name, each in self._defaults.of(self.model_of(chosen)).items()}

    def system_of(self, chosen: Mapping[str, str], model: str) -> str:
        """Return the system prompt: the conversation's, else the operator's, else the model's.

        A model of another host counts as one without. Raises ModelError if no host has the model.
        """
        own, current = self._current.settings.system_prompt, self._current
        if own is None:
            unknown = model not in current.catalog.names and model in current.elsewhere
            own = "" if unknown else current.catalog.get(model).system
        return chosen.get("system", own)


def _undroppable(request: GenerationRequest, prompt: Prompt) -> int:
    """Hash of all that decides whether the prompt fits the context window; earlier turns can be left out."""
    return hash((request.model, request.params.max_tokens, prompt.system, prompt.turns[-1].text, prompt.prefix))


def _keep(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def picture_line(name: str) -> str:
    """The line that names a picture in the text of its message."""
    return storable(f"[picture {one_line(name)}]")


def text_with_files(text: str, attachments: Sequence[Attachment], pictures: Sequence[Picture] = ()) -> str:
    """Join a message, its files and the names of its pictures to one text. A file's name cannot break its line."""
    files = [picture_line(one.name) for one in pictures]
    files += [f"[file {one_line(one.name)}]\n{one.text}\n[end of file]" for one in attachments]
    return storable("\n\n".join(part for part in (text, *files) if part))


def storable(text: str) -> str:
    """Replace lone surrogates, which JSON allows and UTF-8 does not, by '?'."""
    return text.encode("utf-8", "replace").decode()


def _asks_target(event: IncomingMessage) -> bool:
    """Whether a message without text asks for an answer to another person's message, to which it replies."""
    return any(
        each.message_id == event.reply_to and (each.text.strip() or each.attachments or each.pictures)
        for each in event.context
    )


def _identity(event: IncomingMessage) -> Identity:
    return (event.key.platform, event.key.workspace, event.key.channel, event.message_id)


def _refusal(event: IncomingMessage) -> Identity:
    return (*_identity(event)[:-1], REFUSED + event.message_id)


def _counted_person(event: IncomingMessage) -> PersonKey:
    return (event.key.platform, (event.asker or event.author).id)


def _turn(event: IncomingMessage) -> NewTurn:
    return NewTurn(
        key=event.key,
        role=Role.USER,
        author_id=event.author.id,
        author=storable(event.author.name),
        text=text_with_files(event.text, event.attachments, event.pictures),
        message_id=event.message_id,
        sent_at=event.sent_at,
        reply_to=event.reply_to,
        pictures=event.pictures,
        edited_at=event.edited_at,
    )
