"""Users of the scripted platform, so that a test reads as a conversation.

Methods send messages, commands and button presses, and return the bot's immediate Outcome, or its answers as shown on
the platform.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

from bot.types.commands import find_command
from bot.types.messages import (
    Accepted,
    ActionKind,
    Attachment,
    ConversationKey,
    FinishReason,
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
)
from tests.support.fakes.scripted_platform import Posted, ScriptedPlatform

GENERAL = ConversationKey("scripted", "team", "general")
MANAGERS = {"boss"}
"""Names of users who may manage every channel."""
ADMINS = {"root"}
"""Names of users who may manage the workspace."""


def person(name: str) -> Person:
    """A user of the team."""
    return Person(f"id-{name}", name.title(), name in MANAGERS | ADMINS, name in ADMINS)


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer: its messages in order."""

    parts: tuple[Posted, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "\n".join(part.text for part in self.parts)

    @property
    def reason(self) -> FinishReason | None:
        """The finish reason."""
        return self.parts[-1].reply.finish_reason

    @property
    def first(self) -> Posted:
        """The message with the buttons."""
        return self.parts[0]


@dataclass(slots=True)
class Team:
    """Users in the conversation `key`. `elsewhere` gives the same users in another one."""

    platform: ScriptedPlatform
    key: ConversationKey
    numbers: "itertools.count[int]"
    asked: dict[str, str]  # message id by text

    @classmethod
    def of(cls, platform: ScriptedPlatform) -> "Team":
        """The team in its general channel."""
        return cls(platform, GENERAL, itertools.count(1), {})

    def elsewhere(self, **parts: str) -> "Team":
        """The same users in another channel or thread."""
        return Team(self.platform, replace(self.key, **parts), self.numbers, self.asked)

    async def sends(
        self,
        who: str,
        text: str,
        *,
        at: float | None = None,
        files: tuple[Attachment, ...] = (),
        context: tuple[IncomingMessage, ...] = (),
        asker: str = "",
        reply_to: str = "",
        edited_at: float = 0.0,
    ) -> int:
        """Sends a message to the bot; the number of the event, which may not have arrived yet.

        `asker`: a user who asks for an answer to this message of `who`; `reply_to`: id of the message it replies to.
        """
        number = next(self.numbers)
        self.asked[text] = f"message-{number}"
        message = IncomingMessage(
            self.key,
            self.asked[text],
            person(who),
            text,
            float(number) if at is None else at,
            addressed=True,
            attachments=files,
            context=context,
            asker=person(asker) if asker else None,
            reply_to=reply_to,
            edited_at=edited_at,
        )
        return await self.platform.send(message)

    async def says(self, who: str, text: str, **more: Any) -> Outcome:  # Any: arguments of sends
        """Sends a message to the bot; the immediate outcome."""
        return await self.platform.outcome(await self.sends(who, text, **more))

    async def asks(self, who: str, text: str, **more: Any) -> Answer:  # Any: arguments of sends
        """Sends a message to the bot and waits for the whole answer."""
        assert isinstance(await self.says(who, text, **more), Accepted)
        return await self.reply_to(text)

    async def command(self, name: str, typed: str = "", *, who: str = "root") -> Outcome:
        """Sends a command; the immediate outcome."""
        return await self.platform.outcome(await self.gives(name, typed, who=who))

    async def gives(self, name: str, typed: str = "", *, who: str = "root") -> int:
        """Sends a command; the number of the event, which may not have arrived yet."""
        number = next(self.numbers)
        command = find_command(name)
        args = {command.option.name: typed} if command and command.option and typed else {}
        if name == "ask":
            self.asked[typed] = f"event-{number}"
        return await self.platform.send(
            IncomingCommand(self.key, f"event-{number}", person(who), name, args, float(number))
        )

    async def told(self, name: str, typed: str = "", *, who: str = "root") -> str:
        """Sends a command that must return a Notice; its text."""
        outcome = await self.command(name, typed, who=who)
        assert isinstance(outcome, Notice), outcome
        return outcome.text

    async def refused(self, name: str, typed: str = "", *, who: str = "root") -> str:
        """Sends a command that must be Refused; the text."""
        outcome = await self.command(name, typed, who=who)
        assert isinstance(outcome, Refused), outcome
        return outcome.text

    async def presses(self, message: Posted, kind: ActionKind, *, who: str = "ana") -> Outcome:
        """Presses a button under a message."""
        action = IncomingAction(self.key, f"event-{next(self.numbers)}", person(who), message.reply.reply_id, kind)
        return await self.platform.outcome(await self.platform.send(action))

    async def forgets(self, message_id: str, *, author: str = "", who: str = "ana") -> Outcome:
        """Uses 'Forget this' on a message of `author`, or on one of the bot."""
        event_id, author_id = f"event-{next(self.numbers)}", f"id-{author}" if author else "bot"
        event = IncomingForget(self.key, event_id, person(who), message_id, author_id)
        return await self.platform.outcome(await self.platform.send(event))

    async def edits(self, text: str, new: str, *, who: str = "ana", at: float = 0.0) -> None:
        """Edits a message."""
        message = self.asked[new] = self.asked[text]
        edit = MessageEdited(self.key, message, person(who), new, edited_at=at)
        await self.platform.outcome(await self.platform.send(edit))

    async def deletes(self, text: str) -> None:
        """Deletes a message."""
        await self.platform.outcome(await self.platform.send(MessageDeleted(self.key, self.asked[text])))

    def replies_to(self, text: str) -> list[Answer]:
        """The final answers to a question, one per request."""
        mine: dict[str, list[Posted]] = {}
        for message in self.platform.posted:
            if message.reply.key == self.key and message.reply.question_id == self.asked[text]:
                mine.setdefault(message.reply.request_id, []).append(message)
        return [
            Answer(tuple(parts))
            for parts in mine.values()
            if all(part.reply.final for part in parts) and any(part.reply.finish_reason for part in parts)
        ]

    async def reply_to(self, text: str, number: int = 1) -> Answer:
        """Waits until the `number`th answer to a question is final."""
        await self.platform.until(lambda: len(self.replies_to(text)) >= number, f"answer {number} to {text!r} is there")
        return self.replies_to(text)[number - 1]

    async def sees(self, text: str, what: str) -> Posted:
        """Waits until a message that answers a question shows `what`."""

        def found() -> list[Posted]:
            question = self.asked[text]
            return [post for post in self.platform.posted if post.reply.question_id == question and what in post.text]

        await self.platform.until(lambda: bool(found()), f"{what!r} is shown to {text!r}")
        return found()[0]
