"""Executes commands and button presses, and handles edited and deleted messages.

Returns a Notice, a Refused, or Accepted if a reply follows. Events that are delivered twice are executed once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Set
from dataclasses import replace
from weakref import WeakValueDictionary

from bot.conversations.conversations import Conversations
from bot.conversations.queue_entries import ENDED
from bot.conversations.request_queue import RequestQueue
from bot.core.info_commands import InfoCommands
from bot.core.settings_commands import SettingsCommands
from bot.generation.user_messages import counted
from bot.generation.worker import Worker
from bot.models.runtime_config import RuntimeConfig
from bot.replies.replies import Replies
from bot.storage import Storage
from bot.types.commands import act_of, find_command, help_text, parse_value, similar_commands
from bot.types.display_names import as_code
from bot.types.errors import STILL_WRITTEN, TOO_LONG, RequestRefused, StorageError
from bot.types.messages import (
    Accepted,
    ActionKind,
    Attachment,
    ConversationKey,
    FinishReason,
    GenerationRequest,
    IncomingAction,
    IncomingCommand,
    IncomingForget,
    IncomingMessage,
    MessageDeleted,
    MessageEdited,
    Notice,
    Outcome,
    Person,
    Refused,
    Reply,
    RequestKind,
)
from bot.types.rights import ACT_OF_BUTTON, Act, may

RERUN_S = 120.0
"""How long after a question an edit of it offers a rerun, in seconds."""

IDEMPOTENT = frozenset(
    {"reset", "forget", "model", "temperature", "top_p", "max_tokens", "think", "system", "stop"}
    | {ActionKind.STOP, ActionKind.THOUGHTS, ActionKind.GOOD, ActionKind.BAD}
)
"""Idempotent actions. They are recorded after their execution, so that a crash in between cannot lose them."""

SETTING_NAMES = {
    "model": "the model",
    "temperature": "the temperature",
    "think": "how much the model thinks",
    "system": "the instructions",
}
"""Setting names for sentences, where they differ from the command name."""

FORGOTTEN = "What I had stored of that message, and of its answer, is deleted."
NOT_ITS_AUTHOR = "Only its author and channel managers can have a message forgotten."
NOTHING_STORED = "Nothing of that message is stored."
THOUGHTS_GONE = "These thoughts are no longer stored; they are kept for a day."
LONGEST_THOUGHTS = 3000
"""Most characters of thoughts that are shown as a message; longer ones are a file."""
NOT_STORED = "This answer is no longer stored."

SENTENCES = {
    Act.TUNE: "Only channel managers can change {setting} here.",
    Act.CHANGE_MODEL: "Only admins can change {setting} here.",
    Act.FORGET_ALL: "Only channel managers can delete everybody's messages here; without 'all', yours are deleted.",
}
"""Refusals of acts that need a role, whosever question it is."""

CommandHandler = Callable[[IncomingCommand, str | None], Awaitable[Outcome]]


class Actions:
    """Executes commands and button presses, and handles edited and deleted messages."""

    def __init__(
        self,
        config: RuntimeConfig,
        storage: Storage,
        queue: RequestQueue,
        worker: Worker,
        replies: Replies,
        conversations: Conversations,
        settings_commands: SettingsCommands,
        info_commands: InfoCommands,
        prefixes: Mapping[str, str],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        """refresh: has the queue know all unfinished requests of other hosts, before some are stopped."""
        self._config, self._storage, self._queue, self._worker = config, storage, queue, worker
        self._replies, self._conversations, self._prefixes = replies, conversations, prefixes
        self._refresh = refresh
        self.redelivered = 0
        """Number of duplicate commands and button presses that were dropped."""
        self._failed: set[tuple[ConversationKey, str]] = set()  # events recorded, but not executed
        self._locks: WeakValueDictionary[tuple[ConversationKey, str], asyncio.Lock] = WeakValueDictionary()
        self._handlers: dict[str, CommandHandler] = {
            "ask": self._ask,
            "regenerate": self._regenerate,
            "continue": self._continue,
            "stop": self._stop,
            "undo": self._undo,
            "reset": self._reset,
            "forget": self._forget,
            "help": self._help,
            "model": settings_commands.model,
            "temperature": settings_commands.number,
            "top_p": settings_commands.number,
            "max_tokens": settings_commands.number,
            "think": settings_commands.think,
            "system": settings_commands.system,
            "settings": settings_commands.settings,
            "status": info_commands.status,
            "why": info_commands.why,
            "export": info_commands.export,
        }

    async def command(self, event: IncomingCommand) -> Outcome:
        """Execute a command. Raises StorageError."""
        command = find_command(event.name)
        if command is None:
            return Refused(f"There is no command {as_code(event.name, 40)}{similar_commands(event.name) or '.'}")
        try:
            value = parse_value(command, event.args)
            act = act_of(command, value)
            if act in SENTENCES and not self._may(act, event):
                setting = SETTING_NAMES.get(command.name, command.name)
                raise RequestRefused(SENTENCES[act].format(setting=setting))
            handler = self._handlers[command.name]
            if command.name == "ask":  # deduplicated when it is stored as a message
                return await handler(event, value)
            event_id, idempotent = f"command {event.event_id}", command.name in IDEMPOTENT
            return await self._execute_once(event.key, event_id, lambda: handler(event, value), idempotent)
        except RequestRefused as error:
            return Refused(str(error))

    async def action(self, event: IncomingAction) -> Outcome:
        """Execute a button press. Raises StorageError."""
        stored = await self._storage.outbox.get(event.reply_id)
        if stored is None or _channel(stored.reply.key) != _channel(event.key):  # a copy in another channel
            return Refused(NOT_STORED)
        reply = stored.reply
        owners = await self._askers(reply.key, reply.question_id) | {reply.asker.id}
        if not self._may(ACT_OF_BUTTON[event.kind], event, owners):
            return Refused(_only_for(reply.asker.name))
        try:
            event_id = f"action {event.event_id}"
            return await self._execute_once(
                event.key, event_id, lambda: self._execute_button(event, reply), event.kind in IDEMPOTENT
            )
        except RequestRefused as error:
            return Refused(str(error))

    async def edited(self, event: MessageEdited) -> None:
        """Update an edited message; offer a rerun if its question is younger than RERUN_S."""
        changed = await self._conversations.edited(event)
        asked = await self._storage.inbox.of_message(event.key, event.message_id, everywhere=True)
        if not changed or not asked or time.time() - asked[0].request.accepted_at > RERUN_S:
            return
        request_id, hosts = asked[-1].request.request_id, self._storage.hosts
        if not hosts.this or self._replies.get(request_id) is not None or not await hosts.note_edit(request_id):
            self._replies.offer_rerun(request_id)

    async def deleted(self, event: MessageDeleted) -> Outcome:
        """Stop the answers to a deleted message and delete its turns."""
        # Record the id: the message itself may arrive later, after an outage or a storage failure.
        await self._storage.inbox.accept(event.key, event.message_id, at_once=False)
        unfinished = self._unfinished()
        if self._storage.hosts.this:
            asked = await self._storage.inbox.of_message(event.key, event.message_id, everywhere=True)
            unfinished += [stored.request for stored in asked if stored.status not in ENDED]
        for request in {request.request_id: request for request in unfinished}.values():
            if request.message_id == event.message_id and _channel(request.key) == _channel(event.key):
                await self._worker.stop(request.request_id, unasked=True)
        return await self._conversations.deleted(event)

    async def forget(self, event: IncomingForget) -> Outcome:
        """Delete one message and its answer for a user. Raises StorageError."""
        key, message_id, owners = event.key, event.message_id, {event.author_id}
        answer = await self._storage.outbox.by_platform_id(key.platform, key.workspace, key.channel, message_id)
        if answer is not None:
            key, message_id, owners = answer.reply.key, answer.reply.question_id, set()
        authors = await self._storage.history.authors(key, message_id)
        if not self._may(Act.FORGET, event, owners | authors):
            return Refused(NOT_ITS_AUTHOR if authors else NOTHING_STORED)
        await self.deleted(MessageDeleted(key, message_id))
        return Notice(FORGOTTEN)

    async def _execute_once(
        self, key: ConversationKey, identity: str, act: Callable[[], Awaitable[Outcome]], idempotent: bool
    ) -> Outcome:
        """Execute an event once. One that failed with StorageError is executed again on redelivery."""
        event, inbox = (key, identity), self._storage.inbox
        # A duplicate waits here, because the first execution may still fail.
        async with self._locks.setdefault(event, asyncio.Lock()):
            done = await inbox.seen(key, identity) if idempotent else not await inbox.accept(key, identity)
            if done and event not in self._failed:
                self.redelivered += 1
                return Accepted()
            self._failed.discard(event)
            try:
                outcome = await act()
                if idempotent:
                    await inbox.accept(key, identity)
            except StorageError:
                self._failed.add(event)
                raise
            return outcome

    async def _execute_button(self, event: IncomingAction, reply: Reply) -> Outcome:
        if event.kind is ActionKind.STOP:
            return await self._stop_request(reply.request_id)
        if event.kind in (ActionKind.GOOD, ActionKind.BAD):
            await self._storage.outbox.rate(event.reply_id, event.actor.id, event.kind is ActionKind.GOOD)
            return Notice("Thank you, noted.")
        if event.kind is ActionKind.THOUGHTS:
            return await self._show_thoughts(reply.request_id)
        kind = RequestKind.CONTINUE if event.kind is ActionKind.CONTINUE else RequestKind.REGENERATE
        return await self._request_again(reply.key, reply.question_id, event.actor, kind)

    async def _show_thoughts(self, request_id: str) -> Outcome:
        text = await self._storage.outbox.thoughts(request_id)
        if not text:
            return Refused(THOUGHTS_GONE)
        if len(text) > LONGEST_THOUGHTS:
            return Notice("What the model thought is in the file.", attachment=Attachment("thoughts.md", text))
        return Notice(f"What the model thought:\n\n{text}")

    async def _ask(self, event: IncomingCommand, value: str | None) -> Outcome:
        question = value or ""
        message = IncomingMessage(
            key=event.key,
            message_id=event.event_id,
            author=event.actor,
            text=question,
            sent_at=event.sent_at,
            addressed=True,
            remark=f"{as_code(event.actor.name)} asks: {as_code(question, 300)}",  # no message shows the question
        )
        return await self._conversations.message(message)

    async def _regenerate(self, event: IncomingCommand, _: str | None) -> Outcome:
        return await self._repeat_last(event, RequestKind.REGENERATE)

    async def _continue(self, event: IncomingCommand, _: str | None) -> Outcome:
        return await self._repeat_last(event, RequestKind.CONTINUE)

    async def _repeat_last(self, event: IncomingCommand, kind: RequestKind) -> Outcome:
        last = await self._conversations.last_question(event.key)
        if last is None:
            raise RequestRefused("No question has been asked here yet.")
        asked = last.request
        owners = await self._askers(event.key, asked.message_id) | {asked.author.id}
        if not self._may(Act.REPEAT, event, owners):
            raise RequestRefused(_only_for(asked.author.name))
        return await self._request_again(event.key, asked.message_id, event.actor, kind)

    async def _request_again(self, key: ConversationKey, message_id: str, actor: Person, kind: RequestKind) -> Outcome:
        tried = await self._storage.inbox.of_message(key, message_id)
        if any(each.status not in ENDED for each in tried):
            raise RequestRefused(STILL_WRITTEN)
        request = await self._conversations.request(key, message_id, actor, kind)
        prompt = await self._conversations.build_prompt(request)
        if prompt is None:
            raise RequestRefused("The question is no longer stored, so I cannot answer it again.")
        unanswered = not tried or tried[-1].finish_reason is not FinishReason.LENGTH  # else it has only thoughts
        if kind is RequestKind.CONTINUE and not prompt.prefix and unanswered:
            raise RequestRefused("There is no answer yet to continue.")
        if tried and tried[-1].error.startswith(TOO_LONG) and self._conversations.is_tried(request, prompt):
            raise RequestRefused(f"Nothing has changed since it failed: {tried[-1].error}")
        return await self._conversations.request_again(key, message_id, actor, kind)

    async def _stop(self, event: IncomingCommand, _: str | None) -> Outcome:
        """Stop the user's answers here and, from a channel, in its threads; of a channel manager, all answers here."""
        await self._refresh()
        of_all = self._may(Act.STOP, event)
        chosen = [
            request
            for request in self._unfinished()
            if (of_all and request.key == event.key)
            or (request.author.id == event.actor.id and _includes(event.key, request.key))
        ]
        stopped = [await self._worker.stop(request.request_id) for request in chosen]
        return Notice("Stopped.") if any(stopped) else Refused("You have no answer in progress here.")

    async def _stop_request(self, request_id: str) -> Outcome:
        return (
            Notice("Stopped.") if await self._worker.stop(request_id) else Refused("That answer is already finished.")
        )

    async def _undo(self, event: IncomingCommand, _: str | None) -> Outcome:
        asker_id = None if self._may(Act.UNDO, event) else event.actor.id
        turn = await self._storage.history.undo(event.key, asker_id)
        if turn is None:
            return Refused("There is no question of yours to undo." if asker_id else "There is nothing to undo.")
        await self._stop_messages(event.key, {turn.message_id})
        # The removed words are not repeated: in a channel everybody would read them.
        own = turn.author_id == event.actor.id
        question = "your last question" if own else f"the last question, of {as_code(turn.author or 'someone')},"
        return Notice(f"Removed {question} and its answer.")

    async def _reset(self, event: IncomingCommand, _: str | None) -> Outcome:
        if not self._may(Act.RESET, event, await self._beginners(event.key)):
            thread = " and the person who began this thread" if event.key.thread else ""
            raise RequestRefused(f"Only channel managers{thread} can start a new conversation here.")
        hidden = await self._storage.history.reset(event.key)
        return Notice(f"New conversation. The model no longer reads {counted(hidden, 'earlier message')}.")

    async def _forget(self, event: IncomingCommand, value: str | None) -> Outcome:
        history = self._storage.history
        if value == "all":
            removed, messages = await history.forget(event.key)
        else:
            removed, messages = await history.forget_author(event.key, event.actor.id, last=value == "last")
        await self._stop_messages(event.key, messages)
        return Notice(f"Deleted {counted(removed, 'stored message')} of this conversation.")

    async def _stop_messages(self, key: ConversationKey, message_ids: Set[str]) -> None:
        """Stop the answers to these messages, which are deleted."""
        await self._refresh()  # after the deletion: another host may have begun one until then
        for request in self._queue.of_conversation(key):
            if request.message_id in message_ids:
                await self._worker.stop(request.request_id)

    async def _help(self, event: IncomingCommand, _: str | None) -> Outcome:
        return Notice(help_text(self._prefixes.get(event.key.platform, "!")))

    async def _askers(self, key: ConversationKey, message_id: str) -> set[str]:
        """Ids of the users who asked for the first answer to a message."""
        asked = await self._storage.inbox.of_message(key, message_id)
        return {each.request.author.id for each in asked if each.request.kind is RequestKind.ANSWER}

    async def _beginners(self, key: ConversationKey) -> set[str]:
        """Ids of the users whose message a thread starts from, or who asked its first question; none for a channel."""
        if not key.thread:
            return set()
        asker = await self._storage.inbox.first_asker(key)
        return await self._storage.history.authors(key, key.thread) | ({asker} if asker else set())

    def _unfinished(self) -> list[GenerationRequest]:
        return [*self._queue.running(), *self._queue.waiting()]

    def _may(
        self, act: Act, event: IncomingCommand | IncomingAction | IncomingForget, owners: Collection[str] = ()
    ) -> bool:
        return may(act, event.actor, event.key.platform, self._config.settings.admins, owners)


def _only_for(asker: str) -> str:
    return f"Only {as_code(asker) if asker else 'the person who asked'} and channel managers can do that here."


def _channel(key: ConversationKey) -> ConversationKey:
    return replace(key, thread="")


def _includes(key: ConversationKey, other: ConversationKey) -> bool:
    """Whether a conversation is, or has as a thread, the other one."""
    return other == key or (not key.thread and _channel(other) == key)
