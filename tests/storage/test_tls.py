"""Tests encrypted connections to a PostgreSQL server, and the sentences for a certificate that is not trusted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.storage import Storage
from bot.types.errors import EX_CONFIG, ConfigError
from tests.support.builders.cli import Inhouse
from tests.support.builders.storage_rows import KEY, ask, texts
from tests.support.fakes.tls import Authority
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.cli", "tests.support.fixtures.databases"]

TOKEN = "MTA1NjQ3ODk4NzY1NDMyMTA5OA.GxYzAb.abcdefghijklmnopqrstuvwxyz0123456789AB"
AUTHORITY = Authority("localhost")

REFUSED = {
    "another authority": (
        "localhost",
        "verify-full&sslrootcert={other}",
        "certificate verify failed): set sslrootcert",
    ),
    "no such file": (
        "localhost",
        "verify-full&sslrootcert=/nowhere.pem",
        '/nowhere.pem" does not exist): set sslrootcert',
    ),
    "another host": ("127.0.0.1", "verify-full&sslrootcert={ours}", 'match host name "127.0.0.1"): name the host'),
    "not encrypted": ("localhost", "disable", "no encryption): add `?sslmode=verify-full"),
}


@pytest.fixture(scope="module")
def server(postgresql: PostgresqlProcess) -> Iterator[PostgresqlProcess]:
    """A server that accepts only encrypted connections over TCP."""
    server = PostgresqlProcess(address="127.0.0.1", authority=AUTHORITY)
    try:
        server.start()
        yield server
    finally:
        server.close()


def url_of(server: PostgresqlProcess, root: Path, host: str, mode: str) -> SecretStr:
    """The URL of the server with this sslmode, in which {ours} and {other} are files of authorities."""
    files = {"ours": AUTHORITY.write(root / "ours.pem"), "other": Authority("localhost").write(root / "other.pem")}
    return SecretStr(f"postgresql://postgres@{host}:{server.port}/postgres?sslmode={mode.format(**files)}")


async def test_all_connections_are_encrypted_and_the_server_s_name_is_verified(
    tmp_path: Path, server: PostgresqlProcess
) -> None:
    storage = await Storage.open(tmp_path, url_of(server, tmp_path, "localhost", "verify-full&sslrootcert={ours}"))
    await ask(storage, "m1")
    assert texts(await storage.history.turns(KEY)) == ["hello"]
    plain = "SELECT count(*), bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_port > 0"
    ((count, encrypted),) = server.execute(plain)
    assert (count in (2, 3), encrypted) == (True, True)
    await storage.close()


@pytest.mark.parametrize("why", REFUSED)
async def test_a_refused_connection_names_what_to_change(tmp_path: Path, server: PostgresqlProcess, why: str) -> None:
    host, mode, sentence = REFUSED[why]
    with pytest.raises(ConfigError) as caught:
        await Storage.open(tmp_path / "state", url_of(server, tmp_path, host, mode))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("why", ["another authority", "not encrypted"])
def test_run_and_doctor_say_it_in_one_sentence(
    home: Path, inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch, server: PostgresqlProcess, why: str
) -> None:
    host, mode, sentence = REFUSED[why]
    monkeypatch.setenv("INHOUSE_DATABASE_URL", url_of(server, home, host, mode).get_secret_value())
    monkeypatch.setenv("DISCORD_BOT_TOKEN", TOKEN)
    status, _, err = inhouse("run")
    assert (status, "Traceback" in err) == (EX_CONFIG, False)
    assert sentence in err.strip().splitlines()[-1]
    monkeypatch.delenv("DISCORD_BOT_TOKEN")
    _, out, _ = inhouse("doctor", "--json")
    (finding,) = [each for each in json.loads(out) if each["check"] == "database"]
    assert sentence.split("): ")[0] in finding["found"]
    assert finding["fix"]
