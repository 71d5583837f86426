"""Tests doctor's check of a database on a PostgreSQL server, and that no command shows its password."""

import json
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.cli.data_commands import backup
from bot.config.settings import Settings, load_settings, secrets
from bot.doctor import state_checks
from bot.storage import Storage
from bot.types.errors import ConfigError
from bot.types.findings import Finding, State
from tests.support.builders.cli import Inhouse
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.cli", "tests.support.fixtures.databases"]

PASSWORD = "a-password-that-nobody-sees"


@pytest.fixture
def settings(home: Path, postgresql: PostgresqlProcess, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with an empty database."""
    monkeypatch.setenv("INHOUSE_DATABASE_URL", postgresql.new_database().get_secret_value())
    return load_settings()


def found(settings: Settings) -> Finding:
    (finding,) = state_checks.database(settings)
    return finding


async def test_a_database_is_named_with_its_version_and_latency_before_and_after_the_first_start(
    settings: Settings, postgresql: PostgresqlProcess
) -> None:
    assert found(settings).state is State.OK
    assert found(settings).found.endswith("; empty, the first start creates the tables")
    storage = await Storage.open(settings.state_dir, settings.database_url)
    running = found(settings)
    assert (running.state, "PostgreSQL " in running.found, " ms, in use by " in running.found) == (State.OK, True, True)
    await storage.close()
    assert found(settings).found.endswith(" ms, not in use")
    postgresql.execute("UPDATE alembic_version SET version_num = '9999'", settings.database_url)
    assert (found(settings).state, "9999" in found(settings).found) == (State.WRONG, True)


async def test_a_copy_of_the_state_directory_of_a_running_host_is_wrong(settings: Settings, tmp_path: Path) -> None:
    storage = await Storage.open(settings.state_dir, settings.database_url)
    copied = settings.model_copy(update={"state_dir": tmp_path / "copy"})
    shutil.copytree(settings.state_dir, copied.state_dir)
    (_, copy) = state_checks.database(copied)
    assert (copy.state, "is a copy of the state directory of " in copy.found) == (State.WRONG, True)
    assert str(copied.state_dir / "instance") in copy.fix
    assert found(settings).state is State.OK
    await storage.close()
    assert found(copied).state is State.OK


async def test_a_slow_server_or_a_wrong_clock_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_checks, "SLOW_MS", 0.0)
    assert (found(settings).state, "near its database" in found(settings).fix) == (State.WARNING, True)
    monkeypatch.setattr(state_checks, "SLOW_MS", 20_000.0)
    monkeypatch.setattr(state_checks, "CLOCK_S", -1.0)
    assert (found(settings).state, "NTP" in found(settings).fix) == (State.WARNING, True)


def test_a_user_that_cannot_create_tables_is_wrong(settings: Settings, postgresql: PostgresqlProcess) -> None:
    assert settings.database_url is not None
    postgresql.execute("CREATE ROLE visitor LOGIN")
    name = settings.database_url.get_secret_value().split("/")[3].split("?")[0]
    asked = settings.model_copy(update={"database_url": postgresql.url(name, user="visitor")})
    assert (found(asked).state, "OWNER TO" in found(asked).fix) == (State.WRONG, True)


def test_the_password_is_in_no_output(inhouse: Inhouse, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_DATABASE_URL", f"postgresql://ann:{PASSWORD}@127.0.0.1:9/inhouse")
    settings = load_settings()
    assert PASSWORD in secrets(settings)
    assert PASSWORD not in repr(settings)
    for words in (("doctor", "--json"), ("export",), ("db", "upgrade"), ("backup", "copy.db")):
        status, out, err = inhouse(*words)
        assert status != 0
        assert PASSWORD not in out + err
        if words[0] == "doctor":
            findings = json.loads(out)
            assert any("inhouse on 127.0.0.1:9 cannot be reached" in finding["found"] for finding in findings)


@pytest.mark.parametrize("value", ["inhouse", "mysql://a:b@c/d", f"postgresql://ann:{PASSWORD}@host:port/name"])
def test_a_value_that_is_no_url_of_a_database_is_not_quoted(
    inhouse: Inhouse, home: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("INHOUSE_DATABASE_URL", value)
    status, _, err = inhouse("export")
    assert status == 78
    assert (
        "INHOUSE_DATABASE_URL (the environment) is no such URL; it must be postgresql://user:password@host/name" in err
    )
    assert PASSWORD not in err


def test_a_backup_is_pg_dumps(home: Path) -> None:
    url = SecretStr(f"postgresql://ann:{PASSWORD}@db:6543/inhouse")
    with pytest.raises(ConfigError, match="back them up with `pg_dump --format=custom") as caught:
        backup(load_settings(database_url=url), home / "a copy", force=False)
    assert "--dbname=inhouse --host=db --port=6543 --username=ann --file '" in str(caught.value)
    assert PASSWORD not in str(caught.value)
