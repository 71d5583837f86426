"""Tests delivery on Discord with the real service: every answer arrives once and complete, whatever happens to
calls."""

from pathlib import Path

import pytest

from tests.support.builders.discord_service import answered_once, run_discord_service
from tests.support.fakes.discord import Can, FakeDiscord
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine

pytest_plugins = ["tests.support.fixtures.discord"]

POST, EDIT = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"
EVIL = "@everyone @here <@&{role}> <@{user}> https://example.com/secret"


@pytest.mark.fault(16)
async def test_an_answer_to_a_post_that_is_a_502_is_one_message(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        for number, applied in enumerate((False, True)):
            fault = discord_server.faults.answer("POST", POST, status=502, applied=applied)
            question = await setup.ana.says(setup.general, f"number {number}", mention=True)
            await setup.answer_to(question)
            assert fault.hits == 1
        assert len(setup.general.messages) == 2


async def test_a_post_whose_answer_is_lost_is_found_and_not_repeated(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        fault = discord_server.faults.drop("POST", POST, applied=True)
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await answered_once(setup, question)
        assert fault.hits == 1
        assert discord_server.log.count("POST", POST) == 1


@pytest.mark.fault(18)
async def test_a_post_of_an_earlier_process_is_found_in_the_history(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.gates.hold("hello/1")
        frozen = discord_server.faults.freeze("POST", POST, applied=True)
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await discord_server.until(lambda: frozen.hits)
    discord_server.clock.advance(600)
    assert len(setup.general.messages) == 1
    async with run_discord_service(tmp_path, discord_server, earlier=setup) as again:
        await answered_once(again, question)


@pytest.mark.fault(18)
async def test_a_long_answer_of_an_earlier_process_is_taken_up_part_by_part(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    paragraphs = [f"paragraph {number} " + f"{'x' * 20} " * 40 for number in range(8)]
    text = "\n\n".join(paragraphs)
    async with run_discord_service(tmp_path, discord_server) as setup:
        discord_server.limits.set(f"PATCH {EDIT}", 1000, 1)
        setup.engine.answers("tell me", text)
        setup.gates.hold("tell me/300")
        frozen = discord_server.faults.freeze("POST", POST, applied=True, skip=1)
        question = await setup.ana.says(setup.general, "tell me", mention=True)
        await discord_server.until(lambda: frozen.hits)
    discord_server.clock.advance(600)
    engine = ScriptedEngine(Gates().passing)
    engine.answers("tell me", text)
    async with run_discord_service(tmp_path, discord_server, earlier=setup, engine=engine) as again:
        answer = await again.answer_to(question, ends=paragraphs[-1].strip(), timeout=20)
        assert answer.split() == text.split()
        assert len(again.general.messages) == len(again.answers_to(question)[0])


@pytest.mark.fault(19)
async def test_one_channel_that_is_limited_slows_no_other(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        other = discord_server.text_channel("other")
        discord_server.limits.exhaust(f"POST {POST}", setup.general.id, 2.0)
        limited = [await setup.ana.says(setup.general, f"slow {number}", mention=True) for number in range(2)]
        free = await setup.ben.says(other, "quick", mention=True)
        await other.until(lambda: setup.answers_to(free))
        assert not setup.general.messages
        for question in limited:
            await setup.answer_to(question)
        refused = [call for call in discord_server.calls if call.status == 429]
        assert len(refused) == 1


@pytest.mark.fault(20)
async def test_a_limit_on_everything_is_waited_for_and_the_queue_holds(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        await setup.answer_to(await setup.ana.says(setup.general, "warm", mention=True))
        setup.gates.hold("one/0")
        questions = [await setup.ana.says(setup.general, text, mention=True) for text in ("one", "two")]
        await setup.gates.reached("one/0")
        discord_server.limits.pause_all(1.0)
        await setup.gates.open("one/0")
        for question in questions:
            await setup.answer_to(question)
        assert discord_server.rate_limited <= 3, "every lane may run into it once"


@pytest.mark.fault(21)
async def test_a_channel_that_forbids_writing_costs_one_refusal_and_others_are_served(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.general.deny(Can.SEND_MESSAGES)
        for number in range(3):
            await setup.ana.says(setup.general, f"number {number}", mention=True)
        other = discord_server.text_channel("other")
        await setup.answer_to(await setup.ben.says(other, "hello", mention=True))
        await discord_server.until(lambda: len(setup.engine.questions()) == 4)
        assert discord_server.limits.invalid == 1


@pytest.mark.fault(22)
@pytest.mark.parametrize("what", ["message", "channel"])
async def test_what_is_deleted_meanwhile_is_dropped(
    tmp_path: Path, discord_server: FakeDiscord, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.gates.hold("hello/1")
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.general.until(lambda: setup.general.messages)
        if what == "channel":
            discord_server.delete_channel(setup.general)
        else:
            setup.general.messages[0].deleted = True
        await setup.gates.open("hello/1")
        other = discord_server.text_channel("other")
        await setup.answer_to(await setup.ben.says(other, "hello there", mention=True))
        await discord_server.until(lambda: "not on Discord any more" in caplog.text)
        assert caplog.text.count("not on Discord any more") == 1
        assert discord_server.log.count("PATCH", EDIT, status=404) == 1


@pytest.mark.fault(23)
async def test_an_edit_that_is_refused_half_way_loses_nothing(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.engine.answers("hello", "one two three four")
        setup.gates.hold("hello/2")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        refused = discord_server.faults.answer("PATCH", EDIT, status=403, code=50013)
        await discord_server.until(lambda: refused.hits)
        await setup.gates.open("hello/2")
        assert await setup.answer_to(question) == "one two three four"
        assert len(setup.general.messages) == 1


@pytest.mark.fault(23)
async def test_a_final_edit_that_is_refused_comes_as_a_message_of_its_own(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.gates.hold("hello/1")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.general.until(lambda: setup.general.messages)
        discord_server.faults.answer("PATCH", EDIT, status=403, code=50005, times=100)
        await setup.gates.open("hello/1")
        assert await setup.answer_to(question) == "You said: hello"
        assert len(setup.answers_to(question)) == 1


@pytest.mark.fault(24)
async def test_long_answers_come_in_parts_with_their_code_fences_whole(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    code = "\n".join(f"line_{number}='{number:070}'" for number in range(147))
    text = f"Here:\n\n```python\n{code}\n```\n\nThat is all."
    assert 11_900 < len(text) <= 12_000, "longer ones come as a file"
    async with run_discord_service(tmp_path, discord_server) as setup:
        discord_server.limits.set(f"POST {POST}", 100, 1)
        setup.engine.answers("code", text)
        question = await setup.ana.says(setup.general, "code", mention=True)
        await setup.answer_to(question, ends="That is all.", timeout=30)
        (parts,) = setup.answers_to(question)
        assert len(parts) >= 7
        assert all(len(part.content) <= 2000 for part in parts)
        assert all(part.content.count("```") in (0, 2) for part in parts)
        assert all(part.content.startswith("```python\n") for part in parts[1:-1])
        shown = "\n".join(part.content for part in parts)
        assert [line for line in shown.splitlines() if line.startswith("line_")] == code.splitlines()
        assert setup.general.messages == parts, "in order"


@pytest.mark.fault(39)
async def test_nothing_that_a_model_writes_pings_or_unfurls(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        mods = discord_server.role("mods")
        evil = EVIL.format(user=setup.ben.id, role=mods.id)
        setup.engine.answers("hello", f"{evil} and {evil}")
        setup.gates.hold("hello/7")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.general.until(lambda: setup.general.messages and "secret" in setup.general.messages[0].content)
        await setup.gates.open("hello/7")
        assert mods.mention in await setup.answer_to(question)
        (message,) = setup.general.messages
        assert len(message.versions) >= 2
        assert all(version.allowed_mentions for version in message.versions)
        assert not discord_server.pings
        assert message.previews == ()
