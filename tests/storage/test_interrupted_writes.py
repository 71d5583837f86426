"""Tests processes that are killed, or hit a full disk, while they store: acknowledged data is complete."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bot.storage import Storage
from bot.types.errors import StateLocked
from tests.support.builders.storage_rows import KEY, rows

ROOT = Path(__file__).parents[2]

ACCEPTS_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from bot.storage import Storage
from tests.support.builders.storage_rows import KEY, asked, said

async def deliver(storage, name):
    assert await storage.inbox.accept(KEY, name, turns=[said(name, "words " * 50)], request=asked(name))
    print(name, flush=True)

async def main():
    storage = await Storage.open(Path(sys.argv[1]))
    print("open", flush=True)
    for round in range(100000):
        await asyncio.gather(*(deliver(storage, f"{round}-{number}") for number in range(int(sys.argv[2]))))

asyncio.run(main())
"""

ACCEPTS_TO_THE_LIMIT = """
import asyncio, resource, sys
from pathlib import Path
from bot.types.errors import StorageError
from bot.storage import Storage
from tests.support.builders.storage_rows import KEY, asked, said

async def accept(storage, name):
    return await storage.inbox.accept(KEY, name, turns=[said(name, "words " * 500)], request=asked(name))

async def main():
    storage = await Storage.open(Path(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, most))
    for number in range(1000):
        try:
            assert await accept(storage, f"m{number}")
        except StorageError as error:
            print(number, error, flush=True)
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert await accept(storage, f"m{number}")
    await storage.close()

asyncio.run(main())
"""


@contextmanager
def child(script: str, directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another Python process that uses the state in `directory`; killed at the end of the block."""
    command = [sys.executable, "-c", script, str(directory), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.fault(35)
@pytest.mark.parametrize(("acknowledged", "at_once"), [(1, 5), (23, 5), (61, 5), (1, 60), (61, 60), (200, 60)])
async def test_what_was_acknowledged_before_a_kill_is_there_whole(
    tmp_path: Path, acknowledged: int, at_once: int
) -> None:
    with child(ACCEPTS_FOR_EVER, tmp_path, str(at_once)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        names = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        names += process.stdout.read().split()
        process.wait()
    storage = await Storage.open(tmp_path)
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    for name in names:
        assert not await storage.inbox.accept(KEY, name)
    stored = {turn.message_id for turn in await storage.history.turns(KEY, limit=100_000)}
    owed = {request.message_id for request in await storage.inbox.recover()}
    await storage.close()
    assert len(names) >= acknowledged
    assert set(names) <= stored
    assert stored == owed
    assert rows(tmp_path, "SELECT count(*) FROM inbox") == [(len(stored),)]


@pytest.mark.fault(5)
async def test_the_end_of_the_disk_is_an_error_and_the_same_event_is_taken_later(tmp_path: Path) -> None:
    with child(ACCEPTS_TO_THE_LIMIT, tmp_path) as process:
        printed, _ = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0
    accepted, sentence = printed.split(maxsplit=1)
    assert "check the disk" in sentence
    assert int(accepted) > 0
    for table in ("inbox", "turns", "requests"):
        assert rows(tmp_path, f"SELECT count(*) FROM {table}") == [(int(accepted) + 1,)]
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.fault(15)
async def test_another_process_holds_the_directory_until_it_dies(tmp_path: Path) -> None:
    with child(ACCEPTS_FOR_EVER, tmp_path, "1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StateLocked, match="in use by another Inhouse"):
            await Storage.open(tmp_path)
        process.kill()
        process.wait()
        storage = await Storage.open(tmp_path)
        await storage.close()
