"""Tests that conversations with similar names never read each other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.storage import Storage
from bot.types.messages import ConversationKey, MessageDeleted, MessageEdited
from tests.support.builders.conversations import ANA, ConversationsSetup
from tests.support.builders.service import make_settings

WHERE = [
    ConversationKey(platform, workspace, channel, thread)
    for platform in ("discord", "slack")
    for workspace in ("", "team")
    for channel in ("1", "11")
    for thread in ("", "1")
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(WHERE), st.sampled_from(["say", "say", "say", "reset", "forget", "undo", "edit", "delete"])
    ),
    max_size=25,
)


@pytest.mark.fault(41)
@settings(max_examples=20)
@given(STEPS)
async def test_no_conversation_ever_reads_a_word_of_another(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[ConversationKey, str]]
) -> None:
    made = make_settings(tmp_path_factory.mktemp("crossing"))
    storage = await Storage.open(made.state_dir)
    setup = ConversationsSetup(made, storage)
    try:
        for number, (key, step) in enumerate(steps):
            await take(setup, key, step, number)
    finally:
        await storage.close()


async def take(setup: ConversationsSetup, key: ConversationKey, step: str, number: int) -> None:
    """One step in one conversation; message ids are equal everywhere, texts contain a unique canary."""
    canary = f"<{'/'.join((key.platform, key.workspace, key.channel, key.thread))}>"
    history = setup.storage.history
    match step:
        case "reset":
            await history.reset(key)
        case "forget":
            await history.forget(key)
        case "undo":
            await history.undo(key)
        case "edit":
            await setup.conversations.edited(MessageEdited(key, f"{key.thread}1", ANA, f"edited {canary}"))
        case "delete":
            await setup.conversations.deleted(MessageDeleted(key, f"{key.thread}1"))
        case _:
            name = f"{key.thread}{number % 9}"
            await setup.hears(f"text {number} {canary}", key=key, at=float(number), message_id=name)
            for request in setup.owed:
                for text in await setup.reads(request):
                    assert canary in text
                await setup.answers(request, f"answer {number} {canary}")
            setup.owed.clear()
    for turn in await history.turns(key, hidden=True):
        assert canary in turn.text
