"""Tests things that are no files in place of `.env`, a credential or the catalog: one sentence, at once."""

import os
from pathlib import Path

import pytest

from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.types.errors import ConfigError
from tests.support.builders.not_files import OTHERS

pytestmark = [pytest.mark.fault(53), pytest.mark.timeout(60)]


@pytest.mark.parametrize("kind", OTHERS)
def test_something_else_in_the_place_of_env_is_a_mistake(kind: str) -> None:
    OTHERS[kind](Path.cwd() / ".env")
    with pytest.raises(ConfigError, match=r"^\.env cannot be read: .*; make it readable, or remove it$"):
        load_settings()


def test_a_virtual_environment_named_env_is_none_of_ours() -> None:
    Path(".env").mkdir()
    Path(".env/pyvenv.cfg").touch()
    load_settings()


def test_an_env_file_that_is_the_null_device_is_an_empty_one() -> None:
    Path(".env").symlink_to(os.devnull)
    load_settings()


def test_an_env_file_without_end_is_a_mistake() -> None:
    with Path(".env").open("wb") as file:
        file.truncate(2_000_000_000)
    with pytest.raises(ConfigError, match="it has more than 1,000,000 bytes"):
        load_settings()


@pytest.mark.parametrize("kind", [*OTHERS, "huge"])
def test_something_else_in_the_place_of_a_credential_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "credentials").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    path = tmp_path / "credentials" / "HF_TOKEN"
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate(2_000_000_000)
    else:
        OTHERS[kind](path)
    with pytest.raises(ConfigError, match=r"HF_TOKEN \(the credentials directory\) cannot be read"):
        load_settings()


@pytest.mark.parametrize("kind", [*OTHERS, "huge"])
def test_something_else_in_the_place_of_a_catalog_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "catalog.toml"
    monkeypatch.setenv("INHOUSE_CATALOG", str(path))
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate(2_000_000_000)
        with pytest.raises(ConfigError, match="it has more than 1,000,000 bytes"):
            Catalog.of(load_settings())
        return
    OTHERS[kind](path)
    with pytest.raises(ConfigError, match="INHOUSE_CATALOG"):
        load_settings()
