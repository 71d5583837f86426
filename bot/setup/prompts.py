"""Ask questions in a terminal: a line, yes or no, or a secret that is not shown.

Ctrl-C raises KeyboardInterrupt and Ctrl-D EOFError at every question. With `assume_yes` nothing is asked: each question
returns its default, and a secret is ''.
"""

import getpass
import re
import sys
import warnings

from rich.console import Console
from rich.text import Text

from bot.types.errors import ConfigError

_PASTE_MARKS = re.compile(r"\x1b\[20[01]~")  # some terminals put these around what is pasted


class Prompts:
    """Questions on one console."""

    def __init__(self, console: Console, *, assume_yes: bool) -> None:
        self._console, self.assume_yes = console, assume_yes

    def line(self, question: str, default: str = "") -> str:
        """The typed line without spaces around it, or the default if it is empty."""
        if self.assume_yes:
            return default
        while True:
            shown = f" [{default}]" if default else ""
            self._console.print(Text(f"{question}{shown}: ", style="bold"), end="")
            try:
                return _clean(input()) or default
            except UnicodeDecodeError:
                self._console.print("That is not text in this terminal's encoding; type it again.")

    def confirm(self, question: str, *, default: bool) -> bool:
        """Whether the answer is yes."""
        while not self.assume_yes:
            self._console.print(Text(f"{question} [{'Y/n' if default else 'y/N'}]: ", style="bold"), end="")
            try:
                answer = _clean(input()).lower()
            except UnicodeDecodeError:
                answer = "?"
            if not answer:
                break
            if answer in ("y", "yes", "n", "no"):
                return answer[0] == "y"
            self._console.print("Answer y or n.")
        return default

    def secret(self, question: str) -> str:
        """What was typed or pasted, '' for nothing. Raises ConfigError if the terminal would show it."""
        if self.assume_yes:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            try:
                return _clean(getpass.getpass(f"{question}: "))
            except getpass.GetPassWarning as error:
                raise ConfigError(
                    "This terminal cannot hide what is typed: write the token into .env yourself (.env.example lists "
                    "the names), and run `inhouse init` again."
                ) from error
            except UnicodeDecodeError:
                return "?"  # no token; the caller reports it


def is_terminal() -> bool:
    """Whether questions can be asked and answered."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty()


def _clean(text: str) -> str:
    return _PASTE_MARKS.sub("", text).strip()
