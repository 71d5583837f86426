"""Tests posting faults with the real service on both platforms: limits, refusals, deleted channels, split
characters."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bot.engine.text.decoding import TextDecoder
from bot.types.engine import EngineRequest
from bot.types.messages import FinishReason, TokenDelta, Usage
from tests.support.builders.platform_services import Platform
from tests.support.builders.prompt_tokenizers import CHATML, byte_level
from tests.support.builders.storage_rows import rows
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine

pytest_plugins = ["tests.support.fixtures.both_platforms"]

PIECES = "Flags 🇩🇪🏳️‍🌈, people 👩‍👩‍👧 and signs 𒀀ᚠ東 in one line 🙂"


def refused(platform: Platform) -> list[str]:
    """The methods or routes of the calls that got a 429."""
    calls = [call for call in platform.server.calls if call.status == 429]
    return [call.method if platform.name == "slack" else f"{call.method} {call.route}" for call in calls]


@pytest.mark.fault(19)
async def test_a_channel_that_is_limited_for_long_waits_alone_and_is_served_by_the_next_start(
    tmp_path: Path, platform: Platform
) -> None:
    async with platform.open(tmp_path, per_user=10) as setup:
        platform.limits_channel(setup.general, 30)
        slow = [await setup.ana.says(setup.general, f"slow {number}", mention=True) for number in range(2)]
        await setup.server.until(lambda: refused(platform))
        other = platform.channel("other")
        for number in range(3):
            await setup.answer_to(await setup.ben.says(other, f"quick {number}", mention=True))
        await setup.server.until(lambda: len(setup.engine.questions()) == 5)
        assert not setup.general.messages
        assert len(refused(platform)) == len(set(refused(platform))), "each limit was met once"
        before = len(refused(platform))
    platform.server.clock.advance(31)
    async with platform.open(tmp_path, earlier=setup) as again:
        for question in slow:
            await again.answer_to(question)
        assert len(again.general.messages) == 2
        assert len(refused(platform)) == before


@pytest.mark.fault(20)
async def test_while_everything_is_limited_nothing_is_posted_and_the_queue_holds(
    tmp_path: Path, platform: Platform
) -> None:
    async with platform.open(tmp_path, per_user=10) as setup:
        await setup.answer_to(await setup.ana.says(setup.general, "warm", mention=True))
        setup.gates.hold("number 0/0")
        asked = [await setup.ana.says(setup.general, "number 0", mention=True)]
        await setup.gates.reached("number 0/0")
        platform.limits_everything(1.5)
        until = setup.server.clock.now() + 1.5
        asked += [await setup.ana.says(setup.general, f"number {number}", mention=True) for number in range(1, 4)]
        await setup.gates.open("number 0/0")
        await setup.server.until(lambda: len(setup.engine.questions()) == 5)
        assert len(setup.general.messages) == 1 or setup.server.clock.now() > until
        assert rows(tmp_path / "state", "SELECT count(*) FROM turns WHERE role = 'user'") == [(5,)]
        for question in asked:
            await setup.answer_to(question)
        assert len(setup.general.messages) == 5
        most = max(refused(platform).count(call) for call in refused(platform))
        assert most <= len(asked), "nobody runs against it again and again"


@pytest.mark.fault(21)
async def test_a_channel_that_forbids_writing_is_marked_and_counted(
    tmp_path: Path, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    async with platform.open(tmp_path, per_user=10) as setup:
        closed = platform.channel("announcements")
        platform.forbids_writing(closed)
        for number in range(3):
            await setup.ana.says(closed, f"number {number}", mention=True)
        await setup.answer_to(await setup.ben.says(setup.general, "hello", mention=True))
        dropped = "SELECT count(*) FROM outbox WHERE state = 'dropped' AND dropped <> ''"
        await setup.server.until(lambda: rows(tmp_path / "state", dropped) == [(3,)])
        assert "refusal number 1)" in caplog.text
        assert "refusal number 2)" not in caplog.text
        assert not closed.messages


@pytest.mark.fault(22)
async def test_what_is_said_in_a_channel_that_is_deleted_meanwhile_is_dropped_with_one_line(
    tmp_path: Path, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    async with platform.open(tmp_path) as setup:
        setup.gates.hold("hello/2")
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: setup.general.messages)
        platform.deletes_channel(setup.general)
        await setup.gates.open("hello/2")
        await setup.answer_to(await setup.ben.says(platform.channel("other"), "and here?", mention=True))
        await setup.server.until(lambda: "cannot be shown" in caplog.text)
        await setup.server.until(
            lambda: (
                rows(tmp_path / "state", "SELECT state FROM outbox ORDER BY request_id")
                and rows(tmp_path / "state", "SELECT 1 FROM outbox WHERE state = 'dropped'")
            )
        )
        assert caplog.text.count("cannot be shown") == 1


class Spelling(ScriptedEngine):
    """An engine that answers with PIECES, token by token, as a real one decodes them."""

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        tokenizer = byte_level(CHATML)
        decoder = TextDecoder(tokenizer)
        for number, token in enumerate(tokenizer.encode(PIECES, add_special_tokens=False)):
            await self._passing(f"token {number}")
            yield TokenDelta(request.request_id, decoder.push([token]))
        usage = Usage(1, 0, 1, 0.1, 0.1, 0.1, 2048, 0)
        yield TokenDelta(request.request_id, decoder.flush(), FinishReason.STOP, usage)


@pytest.mark.fault(25)
async def test_a_character_that_comes_in_pieces_is_posted_whole_or_not_at_all(
    tmp_path: Path, platform: Platform
) -> None:
    platform.takes_all_calls()
    gates, tokenizer = Gates(), byte_level(CHATML)
    tokens = tokenizer.encode(PIECES, add_special_tokens=False)
    texts = [str(tokenizer.decode(tokens[:number])) for number in range(len(tokens))]
    torn = [number for number, text in enumerate(texts) if text.endswith("\ufffd")]
    assert len(torn) > 20
    for number in torn:
        gates.hold(f"token {number}")
    async with platform.open(tmp_path, engine=Spelling(gates.passing)) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        for number in torn:
            await gates.reached(f"token {number}")
            whole = texts[number].rstrip("\ufffd").strip()
            if platform.name == "discord":  # append-only text shows only complete words
                await setup.server.until(
                    lambda whole=whole: [shown(m.content) for m in setup.general.messages] == [whole]
                )
            await gates.open(f"token {number}")
        assert await setup.answer_to(question) == PIECES
        (message,) = setup.general.messages
        versions = [
            shown(version.content if platform.name == "discord" else version.text) for version in message.versions
        ]
        assert len(versions) > 5 or platform.name == "slack"
        assert not [text for text in versions if not PIECES.startswith(text)]


def shown(text: str) -> str:
    """The text without the cursor."""
    return text.removesuffix("▌").strip()
