"""Regression tests for bugs that the state machine found: faults in short gaps between two steps."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.conversations.conversations import Conversations
from bot.storage import Storage
from bot.storage.inbox import Inbox
from bot.types.errors import StorageError
from bot.types.messages import Accepted, GenerationRequest, MessageDeleted, Prompt, RequestKind
from tests.support.builders.conversations import ANA, CHANNEL, ConversationsSetup
from tests.support.builders.service import ServiceSetup, make_settings
from tests.support.builders.storage_rows import rows
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


@pytest_asyncio.fixture
async def conversations(tmp_path: Path) -> AsyncIterator[ConversationsSetup]:
    """Conversations on a storage that a test can slow down."""
    settings = make_settings(tmp_path)
    storage = await Storage.open(settings.state_dir)
    yield ConversationsSetup(settings, storage)
    await storage.close()


async def test_a_deletion_that_comes_before_its_message_keeps_it_out(setup: ServiceSetup, team: Team) -> None:
    message = f"message-{next(team.numbers) + 1}"
    await setup.platform.outcome(await setup.platform.send(MessageDeleted(team.key, message)))
    assert await team.says("ana", "secret") == Accepted()
    assert team.asked["secret"] == message
    await team.asks("ana", "next")
    assert len(setup.platform.posted) == 1
    assert rows(setup.settings.state_dir, "SELECT count(*) FROM turns WHERE text = 'secret'") == [(0,)]


async def test_a_deletion_in_the_moment_in_which_its_message_is_stored_keeps_it_out(
    conversations: ConversationsSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Inbox.ask

    async def deleted_meanwhile(self: Inbox, *about: object) -> GenerationRequest | None:
        await conversations.storage.inbox.accept(CHANNEL, "secret")
        return await ask(self, *about)  # type: ignore[arg-type]  # same arguments

    monkeypatch.setattr(Inbox, "ask", deleted_meanwhile)
    assert await conversations.hears("secret") == Accepted()
    assert conversations.owed == []
    assert await conversations.storage.history.turns(CHANNEL) == []


async def is_cut_short(task: "asyncio.Task[Accepted]", at: asyncio.Event, go: asyncio.Event) -> None:
    """Cancels a delivery in the middle of its transaction."""
    await at.wait()
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("again", [False, True])
async def test_a_delivery_that_is_cut_short_when_it_is_stored_is_answered_all_the_same(
    conversations: ConversationsSetup, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    at, go = asyncio.Event(), asyncio.Event()
    name = "add_request" if again else "ask"
    store = getattr(Inbox, name)

    async def slow(*about: object, **more: object) -> object:
        done: object = await store(*about, **more)
        at.set()
        await go.wait()
        return done

    if again:
        await conversations.hears("hello")
        await conversations.answers(conversations.owed.pop(), "an answer")
    monkeypatch.setattr(Inbox, name, slow)
    if again:
        pressed = conversations.conversations.request_again(CHANNEL, "hello", ANA, RequestKind.REGENERATE)
        await is_cut_short(asyncio.ensure_future(pressed), at, go)
    else:
        await is_cut_short(asyncio.ensure_future(conversations.hears("hello")), at, go)  # type: ignore[arg-type]  # an Outcome
    assert [request.message_id for request in conversations.owed] == ["hello"]


async def test_the_engine_may_die_while_another_request_is_prepared(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Conversations.prompt

    async def slow(self: Conversations, request: GenerationRequest) -> Prompt | None:
        found = await prompt(self, request)
        assert found is not None
        await setup.platform.gates.passing(f"prompt of {found.turns[-1].text}")
        return found

    monkeypatch.setattr(Conversations, "prompt", slow)
    setup.platform.gates.hold("prompt of two")
    setup.engine.answers("one", "never to its end", dies_at=1)
    other = team.elsewhere(channel="other")
    await other.says("ben", "two")
    await setup.platform.gates.reached("prompt of two")
    await team.says("ana", "one")
    await team.sees("one", "restarting the model")
    await setup.platform.gates.open("prompt of two")
    assert (await other.reply_to("two")).text == "You said: two"
    assert "ended 3 times" in (await team.reply_to("one")).text


async def test_what_storage_says_is_for_the_log_and_not_for_the_chat(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise StorageError("The disk of /home/me/inhouse.db is full.")

    with monkeypatch.context() as patched:
        patched.setattr(Inbox, "start", failing)
        answer = await team.asks("ana", "hello")
    assert answer.text == "⚠️ My storage failed, so I gave this up; the log of Inhouse says why. Please ask again."
    assert (await team.asks("ana", "and now?")).text == "You said: and now?"


async def test_nothing_is_stored_once_the_next_process_may_have_looked(tmp_path: Path) -> None:
    conversations = ConversationsSetup(make_settings(tmp_path), await Storage.open(tmp_path / "state"))
    await conversations.storage.close()
    with pytest.raises(StorageError, match="is closed"):
        await conversations.hears("hello")
    assert rows(tmp_path / "state", "SELECT * FROM inbox") == []
