"""The interactive prompt: history, completion, multi-line paste, Ctrl-C and Ctrl-D."""

from collections.abc import Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout

from bot.platforms.adapter import Core
from bot.types.commands import COMMANDS, find_command

PROMPT = FormattedText([("bold fg:ansicyan", "> ")])
EXIT_HINT = "Press Ctrl-D, or type 'exit', to leave."


class CommandCompleter(Completer):
    """Completes command names after '/', then argument values."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Yield the completions at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        name, space, value = text[1:].partition(" ")
        if not space:
            for command in COMMANDS:
                if command.name.startswith(name):
                    yield Completion(command.name, -len(name), display_meta=command.description)
            return
        known = find_command(name)
        if known is None or known.option is None:
            return
        for choice in known.option.choices:
            if choice.startswith(value.lower()):
                yield Completion(choice, -len(value))
        if known.option.autocomplete:
            for offered in self._core.choices(known.name, value):
                yield Completion(offered.value, -len(value), display=offered.label)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class TypedLines:
    """Reads lines from a prompt. `history_file` persists the history; with None it stays in memory."""

    def __init__(self, history_file: Path | None) -> None:
        self._history_file = history_file
        self._session = self._new_session()

    async def ask(self, core: Core) -> str | None:
        """Return a typed or pasted line, None on Ctrl-D. Ctrl-C clears the line, or prints how to exit."""
        completer = CommandCompleter(core)
        while True:
            try:
                with patch_stdout(raw=True):  # prints answers that arrive now above the prompt
                    return await self._session.prompt_async(PROMPT, completer=completer)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    print(EXIT_HINT)

    async def confirm(self, question: str) -> bool:
        """Ask on a separate line that is not added to the history; only y and yes mean yes."""
        session: PromptSession[str] = PromptSession()
        try:
            answer = await session.prompt_async(f"{question} [y/N] ")
        except (EOFError, KeyboardInterrupt):
            return False
        return answer.strip().lower() in ("y", "yes")

    def clear_history(self) -> None:
        """Delete the history in memory and on disk."""
        if self._history_file:
            self._history_file.unlink(missing_ok=True)
        self._session = self._new_session()

    def _new_session(self) -> PromptSession[str]:
        return PromptSession(history=self._history(), key_bindings=_keys(), complete_while_typing=True)

    def _history(self) -> History:
        if self._history_file is None:
            return InMemoryHistory()
        self._history_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._history_file.touch(mode=0o600)  # private: the user's questions
        return FileHistory(self._history_file)
