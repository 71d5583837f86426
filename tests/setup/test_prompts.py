"""Tests the questions of `inhouse init`."""

import getpass
import io
import sys
import warnings
from collections.abc import Callable

import pytest
from rich.console import Console

from bot.setup.prompts import Prompts, is_terminal
from bot.types.errors import ConfigError
from tests.support.builders.cli import Typing

Ask = Callable[..., tuple[Prompts, io.StringIO]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Prompts on a terminal where these lines are typed, and its output."""

    def typed(text: str, *, assume_yes: bool = False) -> tuple[Prompts, io.StringIO]:
        monkeypatch.setattr(sys, "stdin", Typing(text))
        shown = io.StringIO()
        return Prompts(Console(file=shown, width=80), assume_yes=assume_yes), shown

    return typed


@pytest.mark.parametrize(
    ("typed", "default", "answer"),
    [("\n", True, True), ("\n", False, False), ("Y\n", False, True), ("no\n", True, False)],
)
def test_enter_takes_the_default(ask: Ask, typed: str, default: bool, answer: bool) -> None:
    assert ask(typed)[0].confirm("Go on?", default=default) is answer


def test_what_is_neither_yes_nor_no_is_asked_again(ask: Ask) -> None:
    prompts, shown = ask("perhaps\nn\n")
    assert prompts.confirm("Go on?", default=True) is False
    assert shown.getvalue().count("Go on? [Y/n]: ") == 2


def test_a_line_loses_spaces_and_the_marks_of_a_paste(ask: Ask) -> None:
    assert ask(" \x1b[200~phi-4\x1b[201~ \n")[0].line("Which?", "smollm2") == "phi-4"
    assert ask("\n")[0].line("Which?", "smollm2") == "smollm2"


def test_the_end_of_input_is_no_answer(ask: Ask) -> None:
    with pytest.raises(EOFError):
        ask("")[0].line("Which?", "x")
    with pytest.raises(EOFError):
        ask("")[0].confirm("Go on?", default=True)


def test_nothing_is_asked_with_yes(ask: Ask) -> None:
    prompts, shown = ask("", assume_yes=True)
    assert (prompts.line("Which?", "x"), prompts.confirm("?", default=False), prompts.secret("?")) == ("x", False, "")
    assert shown.getvalue() == ""


def test_a_terminal_that_would_show_a_secret_is_refused(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(prompt: str) -> str:
        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=1)
        return "secret"

    monkeypatch.setattr("getpass.getpass", shown)
    with pytest.raises(ConfigError, match=r"write the token into \.env yourself"):
        ask("")[0].secret("Token")


def test_a_pipe_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert not is_terminal()
