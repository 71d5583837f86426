"""Tests INHOUSE_HTTP and INHOUSE_HTTP_TOKEN: valid values and error messages."""

from collections.abc import Callable

import pytest

from bot.config.address import Address
from bot.config.settings import load_settings, secrets
from bot.types.errors import ConfigError

TOKEN = "a-token-of-the-status-page"

Set = Callable[..., None]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets environment variables, by their names without INHOUSE_."""

    def set_(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"INHOUSE_{name}", value)

    monkeypatch.delenv("INHOUSE_HTTP")
    return set_


def complaint() -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings()
    return str(caught.value)


def test_by_default_it_is_for_this_machine(configured: Set) -> None:
    settings = load_settings()
    assert settings.http == Address("127.0.0.1", 8321)
    assert settings.http_token is None


@pytest.mark.parametrize("off", ["off", "none"])
def test_it_can_be_switched_off(configured: Set, off: str) -> None:
    configured(HTTP=off)
    assert load_settings().http is None


def test_an_address_that_others_can_reach_needs_a_token(configured: Set) -> None:
    configured(HTTP="0.0.0.0:8321")
    assert complaint() == (
        "INHOUSE_HTTP is 0.0.0.0:8321, which other machines can reach, and there is no INHOUSE_HTTP_TOKEN; set one "
        "(`openssl rand -hex 24` makes it), or use 127.0.0.1"
    )
    configured(HTTP_TOKEN=TOKEN)
    assert load_settings().http == Address("0.0.0.0", 8321)


def test_a_token_that_could_be_guessed_is_refused_and_not_shown(configured: Set) -> None:
    configured(HTTP_TOKEN="guess-me")
    assert complaint().startswith(
        "INHOUSE_HTTP_TOKEN (the environment) is not a token; it must be 16 or more characters"
    )
    assert "guess-me" not in complaint()


def test_what_is_no_address_is_said_to_be_none(configured: Set) -> None:
    configured(HTTP="8321")
    assert complaint() == "INHOUSE_HTTP (the environment) is '8321'; it must be host:port, or off"


def test_the_token_is_a_secret(configured: Set) -> None:
    configured(HTTP_TOKEN=TOKEN)
    settings = load_settings()
    assert secrets(settings) == (TOKEN,)
    assert TOKEN not in repr(settings)
