"""Tests that conversations stay separate, whatever their keys and operations."""

import asyncio
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bot.storage import Storage
from bot.types.messages import ConversationKey
from tests.support.builders.storage_rows import answer, asked, said, texts

# few and similar values, so that keys often differ in one part only, or only in where a part ends
parts = st.sampled_from(["", "a", "b", "aa", "a ", "A", "a%", "a_", "'", "a\x00b"])
keys = st.builds(ConversationKey, parts, parts, parts, parts)
actions = st.sampled_from(["say", "say", "say", "ask", "undo", "reset", "forget", "remove", "edit", "set"])


@dataclass
class Expected:
    """The expected contents of one conversation."""

    turns: list[tuple[str, str]] = field(default_factory=list)  # message id and text
    model: str | None = None


async def step(storage: Storage, expected: Expected, key: ConversationKey, action: str, number: int) -> None:
    name, text = f"m{number}", f"canary {number} of {key}"
    last = expected.turns[-1][0] if expected.turns else "none"
    if action in ("say", "ask"):
        request = asked(name, f"r{number}", key=key)
        turns = [said(name, text, at=float(number), key=key)]
        assert await storage.inbox.accept(key, name, turns=turns, request=request)
        expected.turns.append((name, text))
        if action == "ask":
            await answer(storage, request, f"answer to {text}")
            expected.turns.append((name, f"answer to {text}"))
    elif action == "edit":
        await storage.history.edit(key, last, text)
        asked_at = next((i for i, turn in enumerate(expected.turns) if turn[0] == last), None)
        if asked_at is not None:
            expected.turns[asked_at] = (last, text)
    elif action == "set":
        await storage.history.set(key, "model", text)
        expected.model = text
    elif action in ("undo", "remove"):
        await (storage.history.undo(key) if action == "undo" else storage.history.remove_message(key, last))
        expected.turns = [turn for turn in expected.turns if turn[0] != last]
    else:
        await (storage.history.reset(key) if action == "reset" else storage.history.forget(key))
        expected.turns = []


@settings(max_examples=40)
@given(st.lists(st.tuples(keys, actions), min_size=2, max_size=40))
def test_two_conversations_never_mix(steps: list[tuple[ConversationKey, str]]) -> None:
    async def live(directory: Path) -> None:
        storage = await Storage.open(directory)
        expected: defaultdict[ConversationKey, Expected] = defaultdict(Expected)
        for number, (key, action) in enumerate(steps):
            await step(storage, expected[key], key, action, number)
        for key, one in expected.items():
            assert texts(await storage.history.turns(key)) == [text for _, text in one.turns]
            assert (await storage.history.settings(key)).get("model") == one.model
        await storage.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(Path(directory)))
