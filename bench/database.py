"""`python -m bench.database`: what a message costs the database, in a file and on a PostgreSQL server here.

A message is stored with its request, started, read for its prompt, posted, finished and marked as delivered, as the
service does. Both sync every commit to the same disk. Counts transactions and statements; the
milliseconds are medians of interleaved rounds, for one message after the other and for many at once.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine

from bot.storage import Storage
from tests.support.builders.storage_rows import answer, asked, listening, part, said
from tests.support.postgresql import PostgresqlProcess, is_installed

ROUNDS = 5
ALONE, TOGETHER = 40, 200
"""Messages of one round that come one after the other, and at once."""


async def message(storage: Storage, name: str) -> None:
    """The life of one message in the database."""
    request = asked(name, uuid.uuid4().hex)
    key = replace(request.key, channel=name[:8])
    request = replace(request, key=key)
    await storage.inbox.ask(key, name, [said(name, "a question " * 8, key=key)], lambda _: request)
    await storage.inbox.start(request.request_id)
    turns = await storage.history.turns(key, until=name, step=100)
    await storage.history.replied_to(key, {turn.reply_to for turn in turns}, 3)
    await storage.history.resolved(key)
    await storage.history.pictures([turn.id for turn in turns], 8)
    shown = part(request, text="an answer " * 40)
    await storage.outbox.posting(shown)
    await storage.outbox.posted(shown.reply_id, f"posted {name}")
    await storage.inbox.outgrew(key)
    await answer(storage, request, "an answer " * 40, shown)
    await storage.outbox.mark_delivered(shown.reply_id)


async def counted(storage: Storage) -> Counter[str]:
    """The transactions and statements of one message."""
    found: Counter[str] = Counter()

    def count(what: str) -> Callable[..., None]:
        return lambda *_: found.update([what])

    with ExitStack() as stack:
        stack.enter_context(listening(Engine, "begin", count("transactions")))
        stack.enter_context(listening(Engine, "before_cursor_execute", count("statements")))
        await message(storage, f"counted {uuid.uuid4().hex}")
    return found


async def round_of(storage: Storage) -> tuple[float, float]:
    """Milliseconds per message, one after the other and at once."""
    names = [uuid.uuid4().hex for _ in range(ALONE + TOGETHER)]
    began = time.perf_counter()
    for name in names[:ALONE]:
        await message(storage, name)
    alone = time.perf_counter()
    await asyncio.gather(*(message(storage, name) for name in names[ALONE:]))
    return (alone - began) / ALONE * 1000, (time.perf_counter() - alone) / TOGETHER * 1000


async def compare(root: Path, urls: dict[str, SecretStr | None]) -> None:
    """Prints a table."""
    opened = {name: await Storage.open(root / name, url) for name, url in urls.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
    for storage in opened.values():
        await message(storage, "the first")
    counts = {name: await counted(storage) for name, storage in opened.items()}
    for _ in range(ROUNDS):
        for name, storage in opened.items():
            times[name].append(await round_of(storage))
    print(f"| | transactions | statements | ms a message, alone | {TOGETHER} at once |")
    print("| --- | --- | --- | --- | --- |")
    for name, storage in opened.items():
        alone, together = (statistics.median(column) for column in zip(*times[name], strict=True))
        count = counts[name]
        print(f"| {name} | {count['transactions']} | {count['statements']} | {alone:.1f} | {together:.2f} |")
        await storage.close()


def main() -> None:
    """Measure, on a temporary directory of this disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="another PostgreSQL database, empty or of a bench before")
    url = parser.parse_args().url
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as root:
        urls: dict[str, SecretStr | None] = {"SQLite": None}
        if url or not is_installed():
            asyncio.run(compare(Path(root), urls | ({"PostgreSQL": SecretStr(url)} if url else {})))
            return
        server = PostgresqlProcess(safe=True)
        try:
            server.start()
            asyncio.run(compare(Path(root), {**urls, "PostgreSQL": server.new_database()}))
        finally:
            server.close()


if __name__ == "__main__":
    main()
