"""Walks through `inhouse init` as a new user does: in a pseudo-terminal, against the fakes."""

import asyncio
import json
import re
import stat
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.support.builders.hub_models import whole
from tests.support.builders.setup_window import SetupWindow, setup_window
from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.hub import FakeHub
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.slack_server import FakeSlack

pytestmark = pytest.mark.timeout(600)  # importing torch takes minutes on a busy machine

ROOT = Path(__file__).parents[2]
OLD = "# ours\nMINE=1 # stays\nINHOUSE_MODEL=phi-2\n"
HUGE = '[[model]]\nname = "huge"\nrepo = "acme/huge"\nparameters = 100_000_000\ndownload = 1_000_000_000_000_000\n'


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    monkeypatch.setenv("INHOUSE_DEVICE", "cpu")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def discord_at(server: FakeDiscord, home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async with ConnectProxy(server.port) as proxy:
        monkeypatch.setenv("INHOUSE_DISCORD_PROXY", proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(server.write_ca(home / "ca.pem")))
        yield


def put(**files: str) -> None:
    for name, text in files.items():
        Path(f".{name}").write_text(text)


def files() -> dict[str, str]:
    """The text of each file in the working directory."""
    return {path.name: path.read_text() for path in Path().iterdir()}


def modes() -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in Path().glob(".env*")}


def read_env() -> dict[str, str | None]:
    return dict(dotenv_values(".env"))


async def answer(window: SetupWindow, question: str, line: str) -> str:
    """Waits for a question, then types the line; what was on the screen."""
    text = await window.asks(question)
    window.type(line)
    return text


async def test_a_new_user_makes_mistakes_and_has_a_bot_in_the_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(env=OLD, toml=HUGE)
    monkeypatch.setenv("INHOUSE_CATALOG", ".toml")
    async with (
        FakeDiscord(message_content=False) as discord,
        FakeSlack() as slack,
        discord_at(discord, home, monkeypatch),
    ):
        with FakeHub() as hub:
            hub.repos["HuggingFaceTB/SmolLM2-135M-Instruct"] = whole()
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            monkeypatch.setenv("INHOUSE_SLACK_API_URL", slack.api_url)
            discord.also_in(-1)
            slack.scopes.discard("files:read")
            with setup_window() as window:
                await answer(window, "1, 2, or s", "")
                text = await answer(window, "Which model?", "gpt-17")
                assert "Recommended: " in text
                assert "Why: " in text
                assert "no model called `gpt-17`" in await answer(window, "Which model?", "huge")
                assert "does not fit on the disk" in await answer(window, "all the same?", "n")
                await answer(window, "Which model?", "smollm2")
                await answer(window, "Serve Discord?", "")
                assert "discord.com/developers" in await answer(window, "Paste the token", "xoxb-1-that-is-slack's")
                await answer(window, "Paste the token", "not-a-token")
                assert "three parts with dots" in await answer(window, "paste another", "")
                await answer(window, "Paste the token", discord.token)
                text = await window.asks("Switch it on and save")
                assert re.search(r"^    https://discord\.com/developers/applications/\d+/bot$", text, re.MULTILINE)
                discord.portal(message_content=True)
                window.type("")
                text = await window.asks("Choose your server")
                assert "client_id=" in text
                discord.also_in(0)
                window.type("")
                await answer(window, "Serve Slack?", "")
                text = await answer(window, "xoxb-", slack.app_token)
                shown = text[text.index("\n{\n") : text.index("\n}\n") + 2]
                assert json.loads(shown)["settings"]["socket_mode_enabled"], "it can be copied from the screen"
                assert "That is the app-level token" in await answer(window, "xoxb-", slack.bot_token)
                await answer(window, "xapp-", slack.app_token)
                await window.asks("install the app again")
                slack.scopes.add("files:read")
                window.type("")
                assert "- INHOUSE_MODEL=phi-2" in await answer(window, "Write it?", "")
                await answer(window, "Download it now?", "")
                assert await window.ends() == 0
    assert "inhouse run" in window.text
    assert "smollm2 is ready" in window.text
    secrets = (discord.token, slack.bot_token, slack.app_token)
    assert not [secret for secret in secrets if secret.encode() in window.written], "nothing secret is shown"
    wanted = dict(zip(("DISCORD_BOT_TOKEN", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"), secrets, strict=True))
    assert read_env() == {"MINE": "1", "INHOUSE_MODEL": "smollm2", **wanted}
    assert files()[".env"].startswith("# ours\nMINE=1 # stays\n")
    assert OLD in [text for name, text in files().items() if name.startswith(".env.bak-")]
    assert modes() == {0o600}


QUESTIONS = {
    "1, 2, or s": ((), ()),
    "Which model?": ((), ("",)),
    "Serve Discord?": ((), ("s",)),
    "Paste the token": ((), ("s", "")),
    "Serve Slack?": ((), ("s", "n")),
    "xoxb-": ((), ("s", "n", "")),
    "Write it?": (("--model", "smollm2"), ("n", "n")),
    "Address": ((), ("2",)),
}
"""Each question, and the arguments and answers that lead to it."""


@pytest.mark.parametrize(
    ("question", "key"), [*((question, "\x03") for question in QUESTIONS), (next(iter(QUESTIONS)), "\x04")]
)
async def test_ctrl_c_and_ctrl_d_at_each_question_change_nothing(question: str, key: str) -> None:
    put(env=OLD)
    words, lines = QUESTIONS[question]
    with setup_window(*words) as window:
        for line in lines:
            await answer(window, ":", line)
        await window.asks(question)
        window.press(key)
        assert await window.ends() == 130
    assert window.text.rstrip().splitlines()[-1] == "Stopped. Nothing was changed."
    assert "Traceback" not in window.text
    assert files() == {".env": OLD}


WAY = (
    ("Serve Discord?", ""),
    ("Paste the token", "not-a-token"),
    ("paste another", ""),
    ("Paste the token", "DISCORD"),
    ("Switch it on and save", "s"),
    ("Choose your server", "s"),
    ("Serve Slack?", ""),
    ("xoxb-", "SLACK"),
    ("xapp-", "APP"),
    ("install the app again", "s"),
    ("Write it?", ""),
    ("Download it now?", ""),
)
"""The questions to a user whose Discord and Slack lack an intent, a server and a scope, and the answers."""


@pytest.mark.parametrize("stop", [2, 4, 5, 8, 9, 10, 11], ids=lambda number: WAY[number][0])
async def test_ctrl_c_at_a_later_question_changes_nothing_before_the_file_is_written(
    stop: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(env=OLD)
    async with (
        FakeDiscord(message_content=False) as discord,
        FakeSlack() as slack,
        discord_at(discord, home, monkeypatch),
    ):
        tokens = {"DISCORD": discord.token, "SLACK": slack.bot_token, "APP": slack.app_token}
        discord.also_in(-1)
        slack.scopes.discard("files:read")
        monkeypatch.setenv("INHOUSE_SLACK_API_URL", slack.api_url)
        with FakeHub() as hub:
            hub.repos["HuggingFaceTB/SmolLM2-135M-Instruct"] = whole()
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            with setup_window("--model", "smollm2") as window:
                for question, line in WAY[:stop]:
                    await answer(window, question, tokens.get(line, line))
                await window.asks(WAY[stop][0])
                window.press("\x03")
                assert await window.ends() == 130
    assert "Traceback" not in window.text
    last = window.text.rstrip().splitlines()[-1]
    if WAY[stop][0] == "Download it now?":
        assert last == "Stopped. .env is complete; run `inhouse init` again to go on."
        assert read_env()["DISCORD_BOT_TOKEN"] == discord.token
    else:
        assert last == "Stopped. Nothing was changed."
        assert files() == {".env": OLD}


async def test_ctrl_c_in_the_download_keeps_what_was_fetched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub:
        hub.repos["HuggingFaceTB/SmolLM2-135M-Instruct"] = whole()
        goes_on = hub.held["model.safetensors"] = threading.Event()
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        words = ("--model", "smollm2", "--no-discord", "--no-slack")
        with setup_window(*words) as window:
            await answer(window, "Write it?", "")
            await answer(window, "Download it now?", "")
            await window.shows("fetching")
            window.press("\x03")
            assert await window.ends() == 130
        goes_on.set()
        assert window.text.rstrip().splitlines()[-1].startswith("Stopped. .env is complete")
        assert "Traceback" not in window.text
        with setup_window(*words) as window:
            await answer(window, "Download it now?", "")
            assert await window.ends() == 0
    assert "smollm2 is ready" in window.text


async def test_a_server_with_a_key_is_asked_for_its_models() -> None:
    async with FakeOpenAI("vllm", {"org/A": 4096, "org/B": 8192}, key="sesame-open") as server:
        with setup_window("--no-discord", "--no-slack") as window:
            await answer(window, "1, 2, or s", "2")
            await answer(window, "Address", "http://127.0.0.1:9/v1")
            bare = server.url.removeprefix("http://").removesuffix("/v1")
            assert (await answer(window, "Address", bare)).count("no connection") == 1, "not in the log, too"
            await answer(window, "key (not shown", "sesame-open")
            await answer(window, "Which model?", "2")
            await answer(window, "Write it?", "y")
            assert await window.ends() == 0
    assert read_env() == {
        "INHOUSE_ENGINE": "openai",
        "INHOUSE_ENGINE_URLS": server.url,
        "INHOUSE_ENGINE_KEY": "sesame-open",
        "INHOUSE_MODEL": "org/B",
    }
    assert b"sesame" not in window.written


async def inhouse_init(*words: str) -> tuple[int | None, str, str]:
    """Runs a process without a terminal; exit status, stdout, stderr."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "bot.cli", "init", *words)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(250):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_without_a_terminal_it_refuses_in_one_sentence() -> None:
    status, out, err = await inhouse_init()
    assert (status, out) == (2, "")
    assert err.startswith("inhouse: init asks its questions in a terminal")
    assert err.count("\n") == 1
    assert files() == {}


async def test_a_script_gives_the_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeDiscord() as discord, discord_at(discord, home, monkeypatch):
        monkeypatch.setenv("DISCORD_BOT_TOKEN", "wrong")
        status, out, err = await inhouse_init("--yes", "--model", "smollm2", "--no-pull")
        assert status == 1
        assert err.startswith("inhouse: Discord token: ")
        assert files() == {}, "nothing is written"
        monkeypatch.setenv("DISCORD_BOT_TOKEN", discord.token)
        status, out, err = await inhouse_init("--yes", "--model", "smollm2", "--no-pull")
    assert (status, err) == (0, "")
    assert read_env() == {"INHOUSE_MODEL": "smollm2", "DISCORD_BOT_TOKEN": discord.token}
    assert discord.token not in out
    assert "inhouse pull smollm2" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--model", "gpt-17"), "no model called `gpt-17`"),
        (("--model", "smollm2", "--slack"), "Slack needs SLACK_BOT_TOKEN and SLACK_APP_TOKEN"),
        (("--server", "gpu1:8000", "--model", "x"), "check --server"),
    ],
)
async def test_a_mistake_of_a_script_is_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    status, _, err = await inhouse_init("--yes", *words)
    assert status in (1, 78)
    assert sentence in err
    assert err.count("\n") == 1
    assert files() == {}
