"""The console adapter: lines typed at a terminal become events, replies become text on the screen.

It is the worked example of an adapter: all that an adapter must do is in this file. What only a terminal needs is
elsewhere: where lines come from (`typed` for people, `plain` for pipes and --once) and where text goes (`screen` for
people, `plain` for pipes). It promises that a question is answered before the next line is read.
"""

import asyncio
import getpass
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Protocol

from bot.platforms.adapter import Core, Limits
from bot.types.commands import COMMANDS, nearest, parse_text, usage
from bot.types.errors import StorageError
from bot.types.messages import (
    Accepted,
    Attachment,
    ConversationKey,
    FinishReason,
    IncomingCommand,
    IncomingMessage,
    Notice,
    Outcome,
    Person,
    Refused,
    Reply,
)

KEY = ConversationKey("console", "", "chat", "")
LEAVE = ("exit", "quit")


class Lines(Protocol):
    """Where the questions come from."""

    async def ask(self, core: Core) -> str | None:
        """The next line, or None at the end of them."""
        ...

    async def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question; no where nobody can answer."""
        ...

    def forget(self) -> None:
        """Forget every line: the person asked for it."""
        ...


class Screen(Protocol):
    """Where the answers go."""

    def answering(self, interrupted: Callable[[], None]) -> AbstractContextManager[object]:
        """Around the time in which an answer is awaited; Ctrl-C in it calls `interrupted`, where that makes sense."""
        ...

    def waiting(self, text: str) -> None:
        """Say what is going on until the answer comes."""
        ...

    def show(self, reply: Reply) -> None:
        """Bring the shown answer up to date, and finish it if `reply.final`."""
        ...

    def notice(self, notice: Notice) -> None:
        """Show the answer to a command."""
        ...

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        """Show each command with its description."""
        ...

    def save(self, file: Attachment, *, replace: bool) -> None:
        """Save the file of /export, in place of one of that name or beside it."""
        ...

    def exists(self, file: Attachment) -> bool:
        """Whether saving the file would replace one."""
        ...

    def problem(self, text: str) -> None:
        """Say why something was not done."""
        ...

    async def gone(self) -> None:
        """Return once nobody can read the answers any more."""
        ...


def local_person() -> Person:
    """Whoever sits here: they own the machine, so they may do everything."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # no such user in the password file, as in many containers
        name = "you"
    return Person("local", name, manages_channel=True, manages_workspace=True)


class ConsoleAdapter:
    """One conversation in the terminal. `failed` is true once a question was refused, or had no answer but an error."""

    platform = "console"
    # appends: what has scrolled away cannot be taken back, and waiting is shown by a spinner, not as text.
    limits = Limits(max_chars=1_000_000, min_interval_s=0.05, appends=True, buttons=False, prefix="/")

    def __init__(self, lines: Lines, screen: Screen) -> None:
        self.failed = False
        self._lines = lines
        self._screen = screen
        self._person = local_person()
        self._conversation: asyncio.Task[None] | None = None
        self._closed = False
        self._awaited = ""  # the request whose answer is shown as it grows
        self._finals: dict[str, Reply] = {}  # by request, since the last question
        self._final_came = asyncio.Event()
        self._stop: asyncio.Task[None] | None = None

    async def run(self, core: Core) -> None:
        """Ask and answer until the person leaves, the lines end or close() is called."""
        if self._closed:
            return
        self._conversation = asyncio.create_task(self._converse(core))
        watching = asyncio.create_task(self._end_without_reader(core))
        try:
            await self._conversation
        except asyncio.CancelledError:
            if not self._closed:  # then it is run() itself that was cancelled
                self._conversation.cancel()
                raise
        finally:
            watching.cancel()

    async def close(self) -> None:
        """End the conversation, even at the prompt or in the middle of an answer."""
        self._closed = True
        self.failed |= bool(self._awaited)
        if self._conversation:
            self._conversation.cancel()

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """Nobody can say anything in a terminal while the program does not run."""
        return ()

    async def post(self, reply: Reply) -> str:
        """Show a new answer. A terminal has no ids of its own, so ours serves."""
        self._receive(reply)
        return reply.reply_id

    async def find_posted(self, reply: Reply) -> str | None:
        """What an earlier process showed is not on this screen, so it is shown again."""
        return None

    async def update(self, reply: Reply) -> None:
        """Show what was added to an answer."""
        self._receive(reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Say what is being waited for."""
        self._screen.waiting(text or "")

    async def _end_without_reader(self, core: Core) -> None:
        await self._screen.gone()
        self._closed = True
        await self._stop_answer(core)
        self._awaited = ""  # an answer that is not wanted any more is no failure
        if self._conversation:
            self._conversation.cancel()

    async def _converse(self, core: Core) -> None:
        while (line := await self._lines.ask(core)) is not None:
            text = line.strip()
            if text in LEAVE:
                return
            if text:
                await self._say(core, text)

    async def _say(self, core: Core, text: str) -> None:
        """Hand one line to the service and wait until it is dealt with."""
        command = parse_text(text, self.limits.prefix)
        if command is None and (slip := re.match(r"/([a-z_-]+)(?!\S)", text, re.IGNORECASE)):  # not a path like /tmp/x
            self._refuse(f"There is no {slip[0]}{nearest(slip[1]) or '; /help shows the commands.'}")
            return
        if command is not None and command[0] == "help":  # in columns, and without the roles of a channel
            self._screen.help([(usage(each, self.limits.prefix), each.description) for each in COMMANDS])
            return
        self._finals.clear()
        with self._screen.answering(lambda: self._interrupt(core)):
            outcome = await self._hand_over(core, text, command)
            await self._conclude(outcome)
        self._stop = None
        if isinstance(outcome, Notice) and (file := outcome.attachment):
            replace = self._screen.exists(file) and await self._lines.confirm(
                f"{Path(file.name).name} exists. Overwrite it?"
            )
            self._screen.save(file, replace=replace)

    async def _hand_over(self, core: Core, text: str, command: tuple[str, dict[str, str]] | None) -> Outcome:
        now, identity = time.time(), uuid.uuid4().hex
        try:
            if command is None:
                return await core.handle(IncomingMessage(KEY, identity, self._person, text, now, addressed=True))
            name, args = command
            outcome = await core.handle(IncomingCommand(KEY, identity, self._person, name, args, now))
        except StorageError as error:  # not stored, so not acknowledged: here the person is told, and may ask again
            return Refused(str(error))
        if name == "forget" and isinstance(outcome, Notice):
            self._lines.forget()
        return outcome

    async def _conclude(self, outcome: Outcome) -> None:
        match outcome:
            case Refused(text):
                self._refuse(text)
            case Notice():
                self._screen.notice(outcome)
            case Accepted(request_id) if request_id:
                self._awaited = request_id
                while request_id not in self._finals:
                    self._final_came.clear()
                    await self._final_came.wait()
                self._awaited = ""
                self.failed |= self._finals[request_id].finish_reason is FinishReason.ERROR

    def _refuse(self, text: str) -> None:
        self.failed = True
        self._screen.problem(text)

    def _receive(self, reply: Reply) -> None:
        """Show a reply. Only the awaited one is shown while it grows: a prompt is no place for moving text."""
        if reply.final or reply.request_id == self._awaited:
            self._screen.show(reply)
        if reply.final and reply.finish_reason:  # the last message of the answer
            self._finals[reply.request_id] = reply
            self._final_came.set()

    def _interrupt(self, core: Core) -> None:
        """Ctrl-C stops the answer; a second one exits."""
        if self._stop is None:
            self._stop = asyncio.create_task(self._stop_answer(core))
        elif self._conversation:
            self._closed = True
            self._conversation.cancel()

    async def _stop_answer(self, core: Core) -> None:
        self._screen.waiting("stopping; press Ctrl-C again to exit")
        with suppress(StorageError):
            await core.handle(IncomingCommand(KEY, uuid.uuid4().hex, self._person, "stop", {}, time.time()))
