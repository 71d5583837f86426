"""Tests `inhouse db copy`: all rows arrive, an interrupted copy goes on, and nothing else is overwritten."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.storage import Cursor, Storage, copy_to_server
from bot.storage.copy_to_server import copy_to_server as copy
from bot.storage.export import ExportFilter, records
from bot.types.errors import ConfigError, StateLocked, StorageError
from bot.types.messages import FinishReason, Picture, RequestStatus
from tests.support.builders.cli import Inhouse
from tests.support.builders.storage_rows import ELSEWHERE, KEY, USAGE, answer, ask, of_version, part, said, texts
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.cli", "tests.support.fixtures.databases"]

MESSAGES = 7


@pytest.fixture
async def state(home: Path) -> Path:
    """A state directory with rows in all tables."""
    storage = await Storage.open(home / "state")
    for number in range(MESSAGES):
        name = f"{'Zz'[number % 2]}{number}"  # the server sorts these letters in another order
        request = await ask(storage, name, f"Grüße, {name} \0", at=float(number))
        await answer(storage, request, f"the answer to {name}", part(request))
        await storage.outbox.mark_delivered(part(request).reply_id)
        await storage.outbox.rate(part(request).reply_id, "1", number > 2)
        await storage.inbox.finish(
            request.request_id,
            RequestStatus.FINISHED,
            finish_reason=FinishReason.STOP,
            usage=USAGE,
            error="",
            answer=None,
            replies=[],
            thoughts=f"the thoughts about {name}",
        )
        await storage.history.edit(KEY, name, f"edited {name} \0", [Picture("cat.png", "image/png", b"\0\xff", 1, 2)])
    await storage.history.set(KEY, "system", "Be kind.")
    await storage.cursors.save([Cursor(ELSEWHERE, "b1", 1.0)])
    await storage.close()
    return home / "state"


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


def interrupted_after(rows: int) -> copy_to_server.Progress:
    def interrupt(done: int, total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return interrupt


async def test_every_row_arrives_and_new_ones_follow(
    state: Path, url: SecretStr, postgresql: PostgresqlProcess
) -> None:
    copied = {table.name: table.rows for table in copy(state, url, quiet)}
    assert copied["turns"] == 2 * MESSAGES
    assert copied["pictures"] == copied["thoughts"] == copied["requests"] == MESSAGES
    assert 0 not in copied.values()
    here = [storable(record) for record in records(state, ExportFilter())]
    there = list(records(state, ExportFilter(), url))
    assert sorted(map(str, there)) == sorted(map(str, here))
    assert postgresql.execute("SELECT DISTINCT data FROM pictures", url) == [(b"\0\xff",)]
    storage = await Storage.open(state, url)
    request = await ask(storage, "new", at=99.0)
    await answer(storage, request, "the new answer", part(request))
    assert texts(await storage.history.turns(KEY))[-1] == "the new answer"
    await storage.close()


def storable(record: dict[str, object]) -> dict[str, object]:
    """A record as a server has it, whose texts have no NUL."""
    return {name: value.replace("\0", "\ufffd") if isinstance(value, str) else value for name, value in record.items()}


@pytest.mark.parametrize("rows", [1, 20, 40, 60])
async def test_an_interrupted_copy_goes_on_and_nothing_else_uses_the_database_meanwhile(
    state: Path, tmp_path: Path, url: SecretStr, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(copy_to_server, "BATCH_ROWS", 2)
    with pytest.raises(KeyboardInterrupt):
        copy(state, url, interrupted_after(rows))
    with pytest.raises(ConfigError, match="has an unfinished copy: finish it with `inhouse db copy`"):
        await Storage.open(state, url)
    await (await Storage.open(tmp_path / "another")).close()
    with pytest.raises(ConfigError, match="has an unfinished copy of another state"):
        copy(tmp_path / "another", url, quiet)
    copied = copy(state, url, quiet)
    assert sum(table.copied for table in copied) < sum(table.rows for table in copied)
    assert len(list(records(state, ExportFilter(), url))) == len(list(records(state, ExportFilter())))
    await (await Storage.open(state, url)).close()


async def test_a_row_that_differs_is_found(state: Path, url: SecretStr, postgresql: PostgresqlProcess) -> None:
    with pytest.raises(KeyboardInterrupt):
        copy(state, url, interrupted_after(60))
    postgresql.execute("UPDATE turns SET text = 'changed' WHERE id = 1", url)
    with pytest.raises(StorageError, match=r"The table turns of .* differs from the file's"):
        copy(state, url, quiet)


async def test_a_database_with_other_rows_is_left_alone(
    state: Path, tmp_path: Path, url: SecretStr, postgresql: PostgresqlProcess
) -> None:
    other = await Storage.open(tmp_path / "other", url)
    await other.history.add(said("m1", "another text"))
    await other.close()
    with pytest.raises(ConfigError, match="has rows already, in turns: name an empty database"):
        copy(state, url, quiet)
    assert postgresql.execute("SELECT text FROM turns", url) == [("another text",)]
    await (await Storage.open(tmp_path / "other", url)).close()


async def test_a_state_in_use_is_not_copied(state: Path, url: SecretStr) -> None:
    storage = await Storage.open(state)
    with pytest.raises(StateLocked):
        copy(state, url, quiet)
    await storage.close()


async def test_an_older_file_is_upgraded_first(tmp_path: Path, url: SecretStr) -> None:
    of_version(tmp_path, "0005")
    assert {table.rows for table in copy(tmp_path, url, quiet)} == {0}
    await (await Storage.open(tmp_path, url)).close()


def test_the_command_counts_what_it_copied(
    inhouse: Inhouse, state: Path, url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = inhouse("db", "copy")
    assert (status, "Set INHOUSE_DATABASE_URL to an empty PostgreSQL database" in err) == (78, True)
    monkeypatch.setenv("INHOUSE_DATABASE_URL", url.get_secret_value())
    status, out, err = inhouse("db", "copy")
    assert (status, out) == (0, "")
    assert f"  turns: {2 * MESSAGES} rows\n" in err
    assert "compared both: all is the same" in err
