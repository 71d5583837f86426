"""The console adapter: lines from a terminal become events, replies become text on the screen.

This file is the example for new adapters: it has everything that an adapter must do. Terminal specifics are elsewhere:
`line_editor` and `screen` for interactive use, `piped` for pipes and --once. A question is answered before the next
line is read.
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
from bot.platforms.turns import Turns
from bot.types.commands import COMMANDS, parse_text, similar_commands, usage
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
EXIT_WORDS = ("exit", "quit")


class Lines(Protocol):
    """Source of the questions."""

    async def ask(self, core: Core) -> str | None:
        """Return the next line, or None at the end of the input."""
        ...

    async def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question; False if the input is not interactive."""
        ...

    def clear_history(self) -> None:
        """Delete the stored input history, at the user's request."""
        ...


class Screen(Protocol):
    """Output for the answers."""

    def conversation(self) -> AbstractContextManager[object]:
        """Context of all prompts and answers."""
        ...

    def answering(self, interrupted: Callable[[], None]) -> AbstractContextManager[object]:
        """Context while an answer is pending; Ctrl-C in it calls `interrupted`, if the output is interactive."""
        ...

    def waiting(self, text: str) -> None:
        """Show a status text until the answer starts."""
        ...

    def show(self, reply: Reply) -> None:
        """Update the shown answer, and finish it if `reply.final`."""
        ...

    def notice(self, notice: Notice) -> None:
        """Show the response to a command."""
        ...

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        """Show each command with its description."""
        ...

    def save(self, file: Attachment, *, replace: bool) -> None:
        """Save the file of /export; without `replace`, an existing file is kept."""
        ...

    def exists(self, file: Attachment) -> bool:
        """Whether saving the file would overwrite one."""
        ...

    def problem(self, text: str) -> None:
        """Show why something was not done."""
        ...

    async def wait_closed(self) -> None:
        """Return when the output has no reader any more."""
        ...


def local_person() -> Person:
    """The local user, who owns the machine and so has all permissions."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # no such user in the password database, as in many containers
        name = "you"
    return Person("local", name, manages_channel=True, manages_workspace=True)


class ConsoleAdapter:
    """One conversation in the terminal. `failed`: a question was refused or ended in an error."""

    platform = "console"
    # appends: scrolled text cannot be changed, and waiting is shown by a spinner.
    limits = Limits(max_chars=1_000_000, min_interval_s=0.05, appends=True, buttons=False, prefix="/")

    def __init__(self, lines: Lines, screen: Screen) -> None:
        self.failed = False
        self._lines = lines
        self._screen = screen
        self._person = local_person()
        self._conversation: asyncio.Task[None] | None = None
        self._closed = False
        self._awaited = ""  # id of the request whose answer is shown as it grows
        self._finals: dict[str, Reply] = {}  # final replies since the last question, by request id
        self._final_received = asyncio.Event()
        self._stop: asyncio.Task[None] | None = None

    async def run(self, core: Core, turns: Turns | None = None) -> None:
        """Read lines and answer them until the user exits, the input ends or close() is called.

        A terminal belongs to one host, so it needs no turns.
        """
        if self._closed:
            return
        self._conversation = asyncio.create_task(self._converse(core))
        watching = asyncio.create_task(self._end_without_reader(core))
        try:
            await self._conversation
        except asyncio.CancelledError:
            if not self._closed:  # run() itself was cancelled
                self._conversation.cancel()
                raise
        finally:
            watching.cancel()

    async def close(self) -> None:
        """End the conversation, also at the prompt or during an answer."""
        self._closed = True
        self.failed |= bool(self._awaited)
        if self._conversation:
            self._conversation.cancel()

    def id_at(self, seconds: float) -> str:
        """The smallest id of a message that is sent at a Unix time; nothing is missed in a terminal."""
        return ""

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """Return nothing: a terminal receives no messages while the program is not running."""
        return ()

    async def post(self, reply: Reply) -> str:
        """Show a new answer; returns our own id, because a terminal has no message ids."""
        self._receive(reply)
        return reply.reply_id

    async def find_posted(self, reply: Reply) -> str | None:
        """Return None: output of an earlier process is not on this screen, so it is posted again."""
        return None

    async def update(self, reply: Reply) -> None:
        """Show the text that was added to an answer."""
        self._receive(reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Show the status while the user waits."""
        self._screen.waiting(text or "")

    async def _end_without_reader(self, core: Core) -> None:
        await self._screen.wait_closed()
        self._closed = True
        await self._stop_answer(core)
        self._awaited = ""  # an answer without a reader is not a failure
        if self._conversation:
            self._conversation.cancel()

    async def _converse(self, core: Core) -> None:
        with self._screen.conversation():
            while (line := await self._lines.ask(core)) is not None:
                text = line.strip()
                if text in EXIT_WORDS:
                    return
                if text:
                    await self._submit(core, text)

    async def _submit(self, core: Core, text: str) -> None:
        """Pass one line to the service and wait for its answer."""
        command = parse_text(text, self.limits.prefix)
        if command is None and (unknown := re.match(r"/([a-z_-]+)(?!\S)", text, re.IGNORECASE)):  # no path like /tmp/x
            self._refuse(f"There is no {unknown[0]}{similar_commands(unknown[1]) or '; /help shows the commands.'}")
            return
        if command is not None and command[0] == "help":  # shown in columns, without the channel roles
            self._screen.help([(usage(each, self.limits.prefix), each.description) for each in COMMANDS])
            return
        self._finals.clear()
        with self._screen.answering(lambda: self._interrupt(core)):
            outcome = await self._send(core, text, command)
            await self._finish(outcome)
        self._stop = None
        if isinstance(outcome, Notice) and (file := outcome.attachment):
            replace = self._screen.exists(file) and await self._lines.confirm(
                f"{Path(file.name).name} exists. Overwrite it?"
            )
            self._screen.save(file, replace=replace)

    async def _send(self, core: Core, text: str, command: tuple[str, dict[str, str]] | None) -> Outcome:
        now, identity = time.time(), uuid.uuid4().hex
        try:
            if command is None:
                return await core.handle(IncomingMessage(KEY, identity, self._person, text, now, addressed=True))
            name, args = command
            outcome = await core.handle(IncomingCommand(KEY, identity, self._person, name, args, now))
        except StorageError as error:  # a terminal does not redeliver, so show the error
            return Refused(str(error))
        if name == "forget" and isinstance(outcome, Notice):
            self._lines.clear_history()
        return outcome

    async def _finish(self, outcome: Outcome) -> None:
        match outcome:
            case Refused(text):
                self._refuse(text)
            case Notice():
                self._screen.notice(outcome)
            case Accepted(request_id) if request_id:
                self._awaited = request_id
                while request_id not in self._finals:
                    self._final_received.clear()
                    await self._final_received.wait()
                self._awaited = ""
                self.failed |= self._finals[request_id].finish_reason is FinishReason.ERROR

    def _refuse(self, text: str) -> None:
        self.failed = True
        self._screen.problem(text)

    def _receive(self, reply: Reply) -> None:
        """Show a reply; unfinished ones only if awaited, because text must not move while the prompt is shown."""
        if reply.final or reply.request_id == self._awaited:
            self._screen.show(reply)
        if reply.final and reply.finish_reason:  # the last message of the answer
            self._finals[reply.request_id] = reply
            self._final_received.set()

    def _interrupt(self, core: Core) -> None:
        """Stop the answer on the first Ctrl-C, exit on the second."""
        if self._stop is None:
            self._stop = asyncio.create_task(self._stop_answer(core))
        elif self._conversation:
            self._closed = True
            self._conversation.cancel()

    async def _stop_answer(self, core: Core) -> None:
        self._screen.waiting("stopping; press Ctrl-C again to exit")
        with suppress(StorageError):
            await core.handle(IncomingCommand(KEY, uuid.uuid4().hex, self._person, "stop", {}, time.time()))
