"""Builds rows to store (keys, turns, requests and replies with every field set), and reads the database directly.

`open_storage` and `rows` use the database that the test is parametrized with.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import Pool

from bot.storage import NewTurn, Storage, StoredTurn, schema_version
from bot.types.messages import (
    ActionKind,
    Attachment,
    ConversationKey,
    FinishReason,
    GenerationRequest,
    Person,
    Reply,
    RequestKind,
    RequestStatus,
    Role,
    SamplingParams,
    Usage,
)
from tests.support.builders.databases import CHOSEN

KEY = ConversationKey("discord", "guild", "channel", "thread")
ELSEWHERE = ConversationKey("discord", "guild", "channel", "")
ANN = Person("1", "Ann", manages_channel=True)
USAGE = Usage(
    prompt_tokens=30,
    cached_tokens=20,
    generated_tokens=9,
    queue_s=0.25,
    prefill_s=0.5,
    decode_s=1.5,
    context_window=2048,
    dropped_turns=2,
)


def said(
    message_id: str, text: str = "hello", *, at: float = 1.0, key: ConversationKey = KEY, author: Person = ANN
) -> NewTurn:
    return NewTurn(key, Role.USER, author.id, author.name, text, message_id, at)


def asked(
    message_id: str, request_id: str = "", *, key: ConversationKey = KEY, at: float = 1.0, kind: str = "answer"
) -> GenerationRequest:
    return GenerationRequest(
        request_id=request_id or f"request of {message_id}",
        key=key,
        message_id=message_id,
        author=ANN,
        model="smollm2",
        params=SamplingParams(temperature=0.1, top_k=5, stop=("\n\n", "END"), seed=2**63),
        attempts=0,
        accepted_at=at,
        wait_left_s=599.5,
        kind=RequestKind(kind),
    )


def part(
    request: GenerationRequest, number: int = 0, text: str = "an answer", *, platform_id: str | None = None
) -> Reply:
    return Reply(
        reply_id=f"{request.request_id}/{number}",
        request_id=request.request_id,
        key=request.key,
        part=number,
        question_id=request.message_id,
        asker=Person(ANN.id, ANN.name),
        committed=text,
        final=True,
        buttons=(ActionKind.REGENERATE, ActionKind.GOOD),
        platform_id=platform_id,
        attachment=Attachment("answer.md", "# all of it"),
        finish_reason=FinishReason.LENGTH,
        usage=USAGE,
    )


async def ask(storage: Storage, message_id: str, text: str = "hello", *, at: float = 1.0) -> GenerationRequest:
    """Stores a question and its request."""
    request = asked(message_id, at=at)
    assert await storage.inbox.accept(KEY, message_id, turns=[said(message_id, text, at=at)], request=request)
    return request


async def answer(storage: Storage, request: GenerationRequest, text: str | None, *replies: Reply) -> None:
    """Stores the answer to a request."""
    await storage.inbox.finish(
        request.request_id,
        RequestStatus.FINISHED,
        finish_reason=FinishReason.STOP,
        usage=USAGE,
        error="",
        answer=text,
        replies=replies,
    )


async def open_storage(directory: Path) -> Storage:
    """Opens the state in `directory`."""
    return await Storage.open(directory, CHOSEN.url(directory))


def texts(turns: list[StoredTurn]) -> list[str]:
    return [turn.text for turn in turns]


def rows(directory: Path, query: str) -> list[tuple[object, ...]]:
    """The rows of a query on a state directory's database, over a separate connection."""
    if CHOSEN.server is not None:
        return CHOSEN.server.execute(query, CHOSEN.url(directory))
    connection = sqlite3.connect(directory / "inhouse.db")
    try:
        found = connection.execute(query).fetchall()
        connection.commit()
    finally:
        connection.close()
    return found


@contextmanager
def listening(target: type[Engine] | type[Pool], name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Registers a SQLAlchemy event listener until the block ends."""
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


def of_version(directory: Path, version: str) -> None:
    """Creates a database of an earlier schema version."""
    config, engine = schema_version.alembic_config(), create_engine(f"sqlite:///{directory / 'inhouse.db'}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()
