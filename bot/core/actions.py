"""Executes commands and button presses, and handles edited and deleted messages.

Returns a Notice, a Refused, or Accepted if a reply follows. Events that are delivered twice are executed once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from weakref import WeakValueDictionary

from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.core.info_commands import InfoCommands
from bot.core.settings_commands import SettingsCommands
from bot.generation.user_messages import counted
from bot.generation.worker import Worker
from bot.models.runtime_config import RuntimeConfig
from bot.replies.replies import Replies
from bot.storage import Storage
from bot.types.commands import Command, Who, find_command, help_text, parse_value, similar_commands
from bot.types.display_names import as_code
from bot.types.errors import RequestRefused, StorageError
from bot.types.messages import (
    Accepted,
    ActionKind,
    ConversationKey,
    IncomingAction,
    IncomingCommand,
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

RERUN_S = 120.0
"""How long after a question an edit of it offers a rerun, in seconds."""

IDEMPOTENT = frozenset(
    {"reset", "forget", "model", "temperature", "top_p", "max_tokens", "system", "stop", ActionKind.STOP}
    | {ActionKind.GOOD, ActionKind.BAD}
)
"""Idempotent actions. They are recorded after their execution, so that a crash in between cannot lose them."""

SETTING_NAMES = {"model": "the model", "temperature": "the temperature", "system": "the instructions"}
"""Setting names for sentences, where they differ from the command name."""

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
    ) -> None:
        self._config, self._storage, self._queue, self._worker = config, storage, queue, worker
        self._replies, self._conversations, self._prefixes = replies, conversations, prefixes
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
            self._check_right(command, value, event)
            handler = self._handlers[command.name]
            if command.name == "ask":  # deduplicated when it is stored as a message
                return await handler(event, value)
            event_id = f"command {event.event_id}"
            return await self._execute_once(
                event.key, event_id, lambda: handler(event, value), command.name in IDEMPOTENT
            )
        except RequestRefused as error:
            return Refused(str(error))

    async def action(self, event: IncomingAction) -> Outcome:
        """Execute a button press. Raises StorageError."""
        stored = await self._storage.outbox.get(event.reply_id)
        if stored is None:
            return Refused("This answer is no longer stored.")
        asker = stored.reply.asker.id == event.actor.id
        if not asker and not event.actor.manages_channel and not self._is_admin(event.key.platform, event.actor):
            asked = stored.reply.asker.name
            return Refused(
                f"Only {as_code(asked) if asked else 'the person who asked'} and channel managers can do that here."
            )
        try:
            event_id = f"action {event.event_id}"
            return await self._execute_once(
                event.key, event_id, lambda: self._execute_button(event, stored.reply), event.kind in IDEMPOTENT
            )
        except RequestRefused as error:
            return Refused(str(error))

    async def edited(self, event: MessageEdited) -> Outcome:
        """Update an edited message; offer a rerun if its question is younger than RERUN_S."""
        changed = await self._conversations.edited(event)
        asked = await self._storage.inbox.of_message(event.key, event.message_id, everywhere=True)
        if not changed or not asked or time.time() - asked[0].request.accepted_at > RERUN_S:
            return Accepted()
        self._replies.offer_rerun(asked[-1].request.request_id)
        return Accepted()

    async def deleted(self, event: MessageDeleted) -> Outcome:
        """Stop the answers to a deleted message and delete its turns."""
        # Record the id: the message itself may arrive later, after an outage or a storage failure.
        await self._storage.inbox.accept(event.key, event.message_id)
        for request in self._queue.of_conversation(event.key):
            if request.message_id == event.message_id:
                await self._worker.stop(request.request_id, unasked=True)
        return await self._conversations.deleted(event)

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
        kind = RequestKind.CONTINUE if event.kind is ActionKind.CONTINUE else RequestKind.REGENERATE
        return await self._request_again(reply.key, reply.question_id, event.actor, kind)

    def _check_right(self, command: Command, value: str | None, event: IncomingCommand) -> None:
        """Check the role for a change; reading needs no role. Raises RequestRefused."""
        if value is None or command.who is Who.EVERYONE:
            return
        may = command.who is Who.CHANNEL and event.actor.manages_channel
        if may or self._is_admin(event.key.platform, event.actor):
            return
        raise RequestRefused(f"Only {command.who} can change {SETTING_NAMES.get(command.name, command.name)} here.")

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
        last = await self._last_question_id(event.key)
        return await self._request_again(event.key, last, event.actor, RequestKind.REGENERATE)

    async def _continue(self, event: IncomingCommand, _: str | None) -> Outcome:
        last = await self._last_question_id(event.key)
        return await self._request_again(event.key, last, event.actor, RequestKind.CONTINUE)

    async def _request_again(self, key: ConversationKey, message_id: str, actor: Person, kind: RequestKind) -> Outcome:
        if any(request.message_id == message_id for request in self._queue.of_conversation(key)):
            raise RequestRefused("That answer is still being written; stop it first.")
        turns = await self._storage.history.turns(key, until=message_id)
        if not turns or turns[-1].message_id != message_id:
            raise RequestRefused("The question is no longer stored, so I cannot answer it again.")
        if kind is RequestKind.CONTINUE and not await self._conversations.answer(key, message_id):
            raise RequestRefused("There is no answer yet to continue.")
        return await self._conversations.again(key, message_id, actor, kind)

    async def _stop(self, event: IncomingCommand, _: str | None) -> Outcome:
        may_all = event.actor.manages_channel or self._is_admin(event.key.platform, event.actor)
        mine = [
            request
            for request in self._queue.of_conversation(event.key)
            if may_all or request.author.id == event.actor.id
        ]
        stopped = [await self._worker.stop(request.request_id) for request in mine]
        return Notice("Stopped.") if any(stopped) else Refused("You have no answer in progress here.")

    async def _stop_request(self, request_id: str) -> Outcome:
        return (
            Notice("Stopped.") if await self._worker.stop(request_id) else Refused("That answer is already finished.")
        )

    async def _undo(self, event: IncomingCommand, _: str | None) -> Outcome:
        for request in self._queue.of_conversation(event.key):
            await self._worker.stop(request.request_id)
        turn = await self._storage.history.undo(event.key)
        if turn is None:
            return Refused("There is nothing to undo.")
        return Notice(f"Removed {as_code(turn.text)} and its answer.")

    async def _reset(self, event: IncomingCommand, _: str | None) -> Outcome:
        hidden = await self._storage.history.reset(event.key)
        return Notice(f"New conversation. The model no longer reads {counted(hidden, 'earlier message')}.")

    async def _forget(self, event: IncomingCommand, value: str | None) -> Outcome:
        for request in self._queue.of_conversation(event.key):
            if value in (None, "all") or request.author.id == event.actor.id:
                await self._worker.stop(request.request_id)
        if value in (None, "all"):
            removed = await self._storage.history.forget(event.key)
        else:
            turns = await self._storage.history.turns(event.key, limit=100_000, hidden=True)
            mine = [turn.message_id for turn in turns if turn.author_id == event.actor.id]
            chosen = mine[-1:] if value == "last" else mine
            removed = sum([await self._storage.history.remove_message(event.key, message) for message in chosen])
        return Notice(f"Deleted {counted(removed, 'stored message')} of this conversation.")

    async def _help(self, event: IncomingCommand, _: str | None) -> Outcome:
        return Notice(help_text(self._prefixes.get(event.key.platform, "!")))

    async def _last_question_id(self, key: ConversationKey) -> str:
        """Message id of the last question of a conversation. Raises RequestRefused."""
        last = await self._conversations.last_question(key)
        if last is None:
            raise RequestRefused("No question has been asked here yet.")
        return last.request.message_id

    def _is_admin(self, platform: str, actor: Person) -> bool:
        """Whether the user is an admin of the workspace or server, or listed in INHOUSE_ADMINS."""
        return actor.manages_workspace or (platform, actor.id) in self._config.settings.admins
