"""Tests settings: their sources, error messages for wrong values, and that no token is shown."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.config.settings import PREFIX, Misconfigured, Settings, load_settings, near_misses, secrets, variable
from bot.types import commands
from bot.types.errors import ConfigError

TOKEN = "hf_" + "AbCdEfGh12345678" * 2
ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def write_env(text: str | bytes) -> None:
    Path(".env").write_bytes(text.encode() if isinstance(text, str) else text)


def complaint(**overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(**overrides)
    return str(caught.value)


def test_without_anything_set_the_defaults_hold() -> None:
    settings = load_settings()
    assert (settings.model, settings.models, settings.gpu_layers, settings.kv_cache_mb) == ("smollm2", (), None, None)
    assert (settings.temperature, settings.top_p, settings.repetition_penalty) == (0.7, 0.95, 1.0)
    assert (settings.follow_threads, settings.reply_in_thread, settings.catchup_messages) == (True, None, 50)
    assert settings.hf_token is settings.discord_bot_token is None
    assert secrets(settings) == ()


def test_directories_follow_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    settings = load_settings()
    assert (settings.state_dir, settings.cache_dir) == (tmp_path / "a" / "inhouse", tmp_path / "b" / "inhouse")


def test_the_command_line_beats_the_environment_beats_credentials_beat_env_file(
    monkeypatch: pytest.MonkeyPatch, credentials: Path
) -> None:
    write_env("INHOUSE_MODEL=from-file\n")
    assert load_settings().model == "from-file"
    (credentials / "INHOUSE_MODEL").write_text("from-credentials\n")
    assert load_settings().model == "from-credentials"
    monkeypatch.setenv("INHOUSE_MODEL", "from-environment")
    assert load_settings().model == "from-environment"
    assert load_settings(model="from-command-line").model == "from-command-line"
    assert load_settings(model=None).model == "from-environment"


def test_a_token_comes_from_the_credentials_directory_without_its_newline(credentials: Path) -> None:
    (credentials / "HF_TOKEN").write_text(TOKEN + "\n")
    settings = load_settings()
    assert secrets(settings) == (TOKEN,)
    assert TOKEN not in repr(settings)


def test_values_are_understood_as_people_write_them() -> None:
    write_env(
        """
        # a comment
        INHOUSE_MODELS = phi-4, smollm2,,phi-4
        INHOUSE_ADMINS="Discord:123, slack:U0AB"
        INHOUSE_DENY=discord:1,discord:2,discord:1
        INHOUSE_REPLY_IN_THREAD=No
        INHOUSE_FOLLOW_THREADS=off
        INHOUSE_GPU_LAYERS=12
        INHOUSE_DEVICE=CPU
        INHOUSE_SYSTEM_PROMPT='Be brief.
        Be kind.'
        INHOUSE_KV_CACHE_MB=
        INHOUSE_STATE_DIR=~/state
        SOMETHING_ELSE=1
        """
    )
    settings = load_settings()
    assert settings.models == ("phi-4", "smollm2")
    assert settings.admins == {("discord", "123"), ("slack", "U0AB")}
    assert settings.deny == {("discord", "1"), ("discord", "2")}
    assert (settings.reply_in_thread, settings.follow_threads) == (False, False)
    assert (settings.gpu_layers, settings.device, settings.kv_cache_mb) == (12, "cpu", None)
    assert settings.system_prompt is not None
    assert settings.system_prompt.startswith("Be brief.\n")
    assert settings.state_dir == Path.home() / "state"


def test_all_is_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    write_env("INHOUSE_GPU_LAYERS=3")
    monkeypatch.setenv("INHOUSE_GPU_LAYERS", "All")
    assert load_settings().gpu_layers is None


def test_every_mistake_is_reported_at_once_with_its_place_and_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_env("INHOUSE_TEMPERATURE=hot\nINHOUSE_ADMINS=bob\nINHOUSE_TEMPRATURE=1\n\nthis is no setting\n")
    monkeypatch.setenv("INHOUSE_CATALOG", "/no/such/file")
    text = complaint(max_tokens=0)
    assert text.splitlines() == [
        "6 mistakes in the configuration:",
        "- .env, line 5: this is not NAME=value; correct it, or put a # before it",
        "- INHOUSE_TEMPRATURE (.env) is not a setting; did you mean INHOUSE_TEMPERATURE?",
        "- INHOUSE_CATALOG (the environment) is '/no/such/file'; it must be a TOML file that exists",
        "- INHOUSE_TEMPERATURE (.env) is 'hot'; it must be a number between 0 and 2",
        "- INHOUSE_MAX_TOKENS (the command line) is 0; it must be a whole number between 1 and 8192",
        "- INHOUSE_ADMINS (.env) is 'bob'; it must be people as discord:<id> or slack:<id>, separated by commas",
    ]


def test_a_file_without_certificates_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    text = complaint(engine_ca=str(tmp_path / "ca.pem"))
    assert "INHOUSE_ENGINE_CA" in text
    assert text.endswith("; it must be a PEM file with certificates")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TEMPERATURE", "nan"),
        ("TEMPERATURE", "-1"),
        ("TOP_P", "0"),
        ("MAX_TOKENS", "1.5"),
        ("MAX_TOKENS", "9" * 5000),
        ("GPU_LAYERS", "some"),
        ("GPU_LAYERS", "-1"),
        ("QUANTIZATION", "2bit"),
        ("DTYPE", "int8"),
        ("KV_CACHE_MB", "0"),
        ("ADMINS", "discord:1,irc:2"),
        ("ALLOW", "everyone"),
        ("DENY", "discord:"),
        ("FOLLOW_THREADS", "perhaps"),
        ("REPLY_IN_THREAD", "2"),
        ("AMBIENT", "101"),
        ("ATTACH_OVER", "-1"),
        ("LINK_HOSTS", "https://docs.python.org/"),
        ("LINK_HOSTS", "bücher.example"),
        ("LINK_HOSTS", "*"),
        ("CATCHUP_MESSAGES", "many"),
        ("CATCHUP_AGE", "inf"),
        ("DISCORD_PROXY", "proxy:3128"),
        ("STATE_DIR", "~nobody-of-that-name/x"),
        ("CATALOG", "x" * 5000),
        ("QUEUE_SIZE", "0"),
        ("DEADLINE", "inf"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_one_short_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    text = complaint()
    assert text.startswith(f"INHOUSE_{name} (the environment) is ")
    assert "\n" not in text
    assert len(text) < 250


def test_a_wrong_token_is_named_and_not_shown() -> None:
    write_env('HF_TOKEN="hf_this is not one"\n')
    text = complaint()
    assert text == "HF_TOKEN (.env) is not a token; it must be the whole token, without spaces"


def test_files_that_cannot_be_read_are_named(credentials: Path) -> None:
    write_env(b"INHOUSE_MODEL=\xff\xfe\n")
    (credentials / "HF_TOKEN").write_bytes(b"\xff\xff")
    text = complaint(temperature=9)
    assert ".env is not UTF-8 text" in text
    assert "HF_TOKEN (the credentials directory) cannot be read" in text
    assert "INHOUSE_TEMPERATURE (the command line)" in text


@pytest.mark.fault(44)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.builds(
            lambda name, sign, value: f"{name}{sign}{value}".encode("utf-8", "surrogatepass"),
            st.sampled_from([variable(name) for name in Settings.model_fields]),
            st.sampled_from(["=", " = ", "='", '="', "=${", ":", ""]),
            st.text(max_size=50),
        ),
    )
)
@example(b"INHOUSE_CATALOG=\x00")
@example(b"INHOUSE_STATE_DIR=~\x00")
@example("\ufeffINHOUSE_MODEL=x".encode())
@example(b"INHOUSE_MODEL=${INHOUSE_MODEL}")
def test_whatever_is_in_env_file_gives_settings_or_a_complaint(text: bytes) -> None:
    write_env(text)
    try:
        outcome = repr(load_settings())
    except ConfigError as error:
        outcome = str(error)
    assert outcome


def test_the_example_names_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ENV_EXAMPLE.read_text("utf-8").splitlines()
    shown = dict(line[1:].split("=", 1) for line in lines if line.startswith("#") and "=" in line and line[1] != " ")
    assert sorted(shown) == sorted(map(variable, Settings.model_fields))
    defaults = load_settings()
    write_env("\n".join(f"{name}={value}" for name, value in shown.items()))
    assert load_settings() == defaults


def test_commands_and_settings_agree_on_ranges() -> None:
    for name in ("temperature", "top_p", "max_tokens"):
        command = commands.find_command(name)
        assert command is not None
        assert command.option is not None
        for value in (command.option.minimum, command.option.maximum):
            assert getattr(load_settings(**{name: value}), name) == value
        for value in (command.option.minimum - 1, command.option.maximum + 1):  # type: ignore[operator]  # both are set
            assert "it must be" in complaint(**{name: value})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DISCORD_TOKEN", "DISCORD_BOT_TOKEN"),
        ("discord_token", "DISCORD_BOT_TOKEN"),
        ("SLACK_TOKEN", "SLACK_BOT_TOKEN"),
        ("SLACK_APP_TOKN", "SLACK_APP_TOKEN"),
        ("INHOUS_MODEL", "INHOUSE_MODEL"),
        ("IN_HOUSE_MODEL", "INHOUSE_MODEL"),
        ("MODEL", "INHOUSE_MODEL"),
        ("Max_Tokens", "INHOUSE_MAX_TOKENS"),
        ("HTTP", "INHOUSE_HTTP"),
    ],
)
def test_a_near_miss_in_env_file_is_named_with_the_right_name(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.delenv("INHOUSE_HTTP")
    write_env(f"{name}=phi-4\n")
    load_settings()
    assert near_misses() == (f"{name.upper()} (.env) is not a setting, so it has no effect; did you mean {meant}?",)


def test_a_near_miss_of_a_token_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", TOKEN)
    (sentence,) = near_misses()
    assert sentence.startswith("DISCORD_TOKEN (the environment) is not a setting")
    assert TOKEN not in sentence


def test_variables_of_others_and_a_name_beside_the_right_one_are_no_near_misses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MODEL", "DEVICE", "HTTP", "GH_TOKEN", "HA_TOKEN", "HF_HOME", "HTTP_PROXY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("INHOUSE_MODEL", "phi-4")
    write_env(
        "GH_TOKEN=x\nGITLAB_TOKEN=x\nSOMETHING_ELSE=1\nPATH=/bin\nDISCORD_CLIENT_ID=1\nSLACK_SIGNING_SECRET=x\n"
        "DISCORD_TOKEN=x\nDISCORD_BOT_TOKEN=y\nHF_HUB_OFFLINE=1\nHTTPS_PROXY=x\nTEMPERATURE=\n"
    )
    assert near_misses() == ()


def test_the_fields_that_were_replaced_by_defaults_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_HTTP", "0.0.0.0:8321")
    write_env("INHOUSE_TEMPERATURE=hot\nHF_TOKEN='a b'\nINHOUSE_MODLE=x\n")
    with pytest.raises(Misconfigured) as caught:
        load_settings()
    assert caught.value.invalid == {"http", "temperature", "hf_token"}


def test_an_invalid_token_on_the_command_line_is_a_mistake_like_any_other() -> None:
    with pytest.raises(Misconfigured) as raised:
        load_settings(discord_bot_token="two words", model="phi-4")
    assert raised.value.mistakes[0].startswith("DISCORD_BOT_TOKEN (the command line) is not a token")
    assert raised.value.usable.discord_bot_token is None
    assert raised.value.usable.model == "phi-4"
