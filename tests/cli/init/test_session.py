"""Tests what `inhouse init` prints and opens, and the settings that it collects."""

import io
import webbrowser
from pathlib import Path

import pytest
from rich.console import Console

from bot.cli.init.session import Session, mistake_of
from bot.config.settings import Misconfigured
from bot.setup.env_file import EnvFile
from bot.setup.prompts import Prompts

URL = f"https://example.org/{'a' * 90}"


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def session(shown: io.StringIO) -> Session:
    console = Console(file=shown, width=80, force_terminal=True, color_system=None)
    return Session(console, Prompts(console, assume_yes=False), EnvFile(Path(".env"), None))


@pytest.mark.parametrize(
    ("environment", "kind", "opened"),
    [
        ({}, webbrowser.BackgroundBrowser, []),
        ({"DISPLAY": ":0"}, webbrowser.BackgroundBrowser, [URL]),
        ({"WAYLAND_DISPLAY": "wayland-0"}, webbrowser.BackgroundBrowser, [URL]),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "10.0.0.1"}, webbrowser.BackgroundBrowser, []),
        ({"DISPLAY": ":0"}, webbrowser.GenericBrowser, []),
    ],
)
def test_a_link_is_always_printed_whole_and_opened_on_a_desktop_only(
    session: Session,
    shown: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    kind: type[webbrowser.GenericBrowser],
    opened: list[str],
) -> None:
    asked: list[str] = []
    browser = kind("a-browser")

    def opens(self: webbrowser.GenericBrowser, url: str) -> bool:
        asked.append(url)
        return True

    monkeypatch.setattr(kind, "open", opens)
    monkeypatch.setattr("webbrowser.get", lambda: browser)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    session.link(URL)
    assert URL in shown.getvalue(), "in one line, to be copied"
    assert asked == opened


def test_what_was_chosen_counts_before_env_and_mistakes_elsewhere_are_no_obstacle(session: Session) -> None:
    Path(".env").write_text("INHOUSE_MODEL=phi-2\nINHOUSE_DTYPE=int3\n")
    assert session.settings().model == "phi-2"
    session.put("model", "phi-4")
    session.put("discord_bot_token", "a.b.c")
    settings = session.settings(engine="openai", engine_urls="http://gpu1:8000/v1")
    assert (settings.model, settings.engine_urls) == ("phi-4", ("http://gpu1:8000/v1",))
    assert session.values == {"INHOUSE_MODEL": "phi-4", "DISCORD_BOT_TOKEN": "a.b.c"}
    with pytest.raises(Misconfigured) as raised:
        session.settings(slack_bot_token="two words")
    assert mistake_of(raised.value, "slack_bot_token").startswith("That is not a token; it must be a bot token")
    assert "two words" not in mistake_of(raised.value, "slack_bot_token")
