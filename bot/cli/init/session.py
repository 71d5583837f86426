"""The state of one `inhouse init`: the console, the prompts, and the values that are to be written to `.env`."""

import asyncio
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from bot.cli.doctor import quiet
from bot.config.settings import Misconfigured, Settings, load_settings, secrets, variable
from bot.doctor.check_runner import LONG_S, Check, Findings, Section, run_checks
from bot.doctor.report import Report
from bot.setup.env_file import EnvFile
from bot.setup.prompts import Prompts
from bot.types.findings import Finding

SKIP = ("s", "skip")


@dataclass(slots=True)
class Session:
    """One run of init. values: what is to be written to `.env`, by variable."""

    console: Console
    prompts: Prompts
    env: EnvFile
    values: dict[str, str] = field(default_factory=dict)
    _given: dict[str, Any] = field(default_factory=dict)  # Any: values of settings

    def settings(self, **more: Any) -> Settings:  # Any: values of settings
        """The settings with what was chosen so far, and with `more`.

        Raises Misconfigured for a mistake in these; mistakes elsewhere are replaced by defaults.
        """
        given = {**self._given, **more}
        try:
            return load_settings(**given)
        except Misconfigured as error:
            if error.invalid & given.keys():
                raise
            return error.usable

    def put(self, name: str, value: str) -> None:
        """Choose the value of a setting. name: the field of Settings."""
        self._given[name] = value
        self.values[variable(name)] = value

    def heading(self, number: int, of: int, title: str) -> None:
        """Print the heading of a step."""
        self.console.print(Text(f"\n{number}/{of}  {title}", style="bold cyan"))

    def say(self, text: str, style: str = "") -> None:
        """Print a paragraph, wrapped at the width of a terminal only."""
        self.console.print(Text(text, style=style), soft_wrap=not self.console.is_terminal)

    def copyable(self, text: str) -> None:
        """Print a link or a command in one piece, indented."""
        self.console.print(Text(f"    {text}"), soft_wrap=True)

    def link(self, url: str, *, filled: str = "") -> None:
        """Print a link, and open it where there is a desktop. filled: the address to open, if it is a longer one."""
        self.copyable(url)
        if not self.prompts.assume_yes and _has_desktop() and _open(filled or url):
            self.say("    (opened in your browser)", "dim")

    def check(self, title: str, start: Callable[[], Findings]) -> list[Finding]:
        """Run a check of `inhouse doctor` and return its findings."""

        async def findings() -> list[Finding]:
            sections = [Section(title, [Check(title, start, LONG_S)])]
            return [each async for _, found in run_checks(sections, lambda _: None) for each in found]

        with self.console.status(f"asking {title}"), quiet():
            return asyncio.run(findings())

    def show(self, title: str, findings: Sequence[Finding], settings: Settings) -> None:
        """Print findings as `inhouse doctor` does, without the tokens of the settings."""
        Report(self.console, secrets(settings)).add(title, findings, show=True)


def mistake_of(error: Misconfigured, name: str) -> str:
    """The sentence about one setting that was typed. name: the field of Settings."""
    found = next((mistake for mistake in error.mistakes if mistake.startswith(variable(name))), error.mistakes[0])
    typed = f"{variable(name)} (the command line) is "
    return f"That is {found.removeprefix(typed)}" if found.startswith(typed) else found


def _has_desktop() -> bool:
    """Whether a browser would open in front of this person, not on a server and not as text in this terminal."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(url: str) -> bool:
    try:
        browser = webbrowser.get()
        in_terminal = type(browser) is webbrowser.GenericBrowser
        return not in_terminal and browser.open(url)
    except (webbrowser.Error, OSError):
        return False
