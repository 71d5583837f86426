"""Tests what users see of an answer: while it waits, while it is written, and at the end."""

from dataclasses import replace
from pathlib import Path

import pytest

from bot.platforms.adapter import Limits
from bot.replies import replies
from bot.replies.renderer import FILE, ONLY_THOUGHT, THOUGHT_ONLY
from bot.types.messages import Accepted, ActionKind, Attachment, FinishReason, IncomingMessage, RequestStatus
from tests.support.builders.service import ServiceSetup, make_settings, run_service
from tests.support.builders.storage_rows import asked, open_storage, part, said
from tests.support.fakes.scripted_platform import Fault, ScriptedPlatform
from tests.support.fakes.team import GENERAL, Team, person

pytest_plugins = ["tests.support.fixtures.service"]


async def test_the_first_words_are_shown_before_the_rest_is_there(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Good morning to you")
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    message = await team.sees("hello", "Good")
    assert [kind.value for kind in message.buttons] == ["stop"]
    assert not message.reply.final
    await setup.platform.gates.open("hello/1")
    answer = await team.reply_to("hello")
    assert answer.text == "Good morning to you"
    assert all(answer.text.startswith(text) for text in message.history)
    assert [kind.value for kind in message.buttons] == ["regenerate", "good", "bad"]


async def test_a_cursor_stands_at_the_end_of_what_is_still_written(tmp_path: Path) -> None:
    async with run_service(tmp_path, limits=Limits(100, 0.0, cursor=" ▌")) as setup:
        setup.engine.answers("hello", "Good morning " + "to all of you " * 10)
        setup.platform.gates.hold("hello/20")
        await setup.team.says("ana", "hello")
        await setup.team.sees("hello", "▌")
        await setup.platform.gates.open("hello/20")
        answer = await setup.team.reply_to("hello")
        assert len(answer.parts) == 2
        assert "▌" not in answer.text
        assert all(len(text) <= 100 for part in answer.parts for text in part.history)


async def test_a_waiting_user_sees_a_place_and_then_the_answer_in_the_same_message(tmp_path: Path) -> None:
    async with run_service(tmp_path) as setup:
        for number in range(4):  # the most that run at once
            setup.platform.gates.hold(f"question {number}/0")
            await setup.team.elsewhere(channel=f"room-{number}").says(
                "ana" if number < 2 else "ben", f"question {number}"
            )
            await setup.platform.gates.reached(f"question {number}/0")
        await setup.team.says("cleo", "hello")
        message = await setup.team.sees("hello", "1st in line")
        assert message.buttons == (ActionKind.STOP,)
        assert (setup.team.key, "1st in line") in setup.platform.statuses
        await setup.platform.gates.open("question 0/0")
        answer = await setup.team.reply_to("hello")
        assert answer.parts == (message,)
        assert answer.text == "You said: hello"


@pytest.mark.parametrize("thread", ["a thread", ""])
async def test_where_text_is_only_appended_waiting_is_reported_by_status(tmp_path: Path, thread: str) -> None:
    async with run_service(tmp_path, limits=Limits(2000, 0.0, appends=True)) as setup:
        team = setup.team.elsewhere(thread=thread)
        setup.platform.gates.hold("question/0")
        await team.says("ana", "question")
        await setup.platform.gates.reached("question/0")
        await team.says("ana", "hello")
        await setup.platform.until(lambda: (team.key, "1st in line") in setup.platform.statuses, "it is told")
        if thread:
            assert setup.platform.posted == []
        else:
            await setup.platform.until(lambda: bool(setup.platform.posted), "it is a message, which changes")
        await setup.platform.gates.open("question/0")
        answer = await team.reply_to("hello")
        assert answer.first.history[0].startswith("You" if thread else "1st in line")


async def test_the_status_of_a_question_that_was_deleted_is_taken_away(tmp_path: Path) -> None:
    async with run_service(tmp_path, limits=Limits(2000, 0.0, appends=True)) as setup:
        team = setup.team.elsewhere(thread="a thread")
        setup.platform.gates.hold("question/0")
        await team.says("ana", "question")
        await setup.platform.gates.reached("question/0")
        await team.says("ana", "hello")
        await setup.platform.until(lambda: (team.key, "1st in line") in setup.platform.statuses, "its place is told")
        await team.deletes("hello")
        await setup.platform.until(lambda: (team.key, "(over)") in setup.platform.statuses, "and then no longer")
        await setup.platform.gates.open("question/0")
        await team.reply_to("question")


async def test_an_error_follows_what_was_written_and_is_not_remembered(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Good morning to you", fails_at=2)
    answer = await team.asks("ana", "hello")
    assert answer.text == "Good morning\n\n⚠️ The prompt does not fit."
    assert answer.reason is FinishReason.ERROR
    assert answer.first.buttons == (ActionKind.REGENERATE,)
    await team.asks("ana", "and now?")
    assert [turn.text for turn in setup.engine.prompt_of("and now?").prompt.turns] == ["hello", "and now?"]


async def test_an_answer_that_is_stopped_before_its_first_word_says_so(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/0")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("hello/0")
    assert await team.told("stop", who="ana") == "Stopped."
    answer = await team.reply_to("hello")
    assert answer.text == "Stopped."
    assert answer.reason is FinishReason.ABORT


async def test_an_answer_that_is_stopped_keeps_its_words_and_can_go_on(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Good morning to you")
    setup.platform.gates.hold("hello/2")
    await team.says("ana", "hello")
    message = await team.sees("hello", "Good morning")
    await team.presses(message, ActionKind.STOP)
    answer = await team.reply_to("hello")
    assert answer.text == "Good morning"
    assert ActionKind.CONTINUE in answer.first.buttons


@pytest.mark.parametrize("said", [" ", "\n\n", ""])
async def test_a_model_that_says_nothing_is_reported(setup: ServiceSetup, team: Team, said: str) -> None:
    setup.engine.answers("hello", said)
    answer = await team.asks("ana", "hello")
    assert answer.text == "(The model had nothing to say.)"


async def test_a_continuation_inside_code_opens_the_code_again(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("code", "Look:\n```python\nprint(1) print(2) print(4)")
    setup.engine.answers("code", "\nprint(3)\n```\nDone.")
    await team.command("max_tokens", "2")
    answer = await team.asks("ana", "code")
    assert answer.reason is FinishReason.LENGTH
    await team.command("max_tokens", "100")
    await team.presses(answer.first, ActionKind.CONTINUE)
    more = await team.reply_to("code", 2)
    assert more.text == "```python\nprint(3)\n```\nDone."


async def test_a_remark_stays_above_the_answer_of_another_model(setup: ServiceSetup, team: Team) -> None:
    setup.engine.bad["large"] = "The weights of large are damaged."
    await team.told("model", "large")
    core = setup.adapter.core
    assert core is not None
    team.asked["hello"] = "1"
    await core.handle(IncomingMessage(team.key, "1", person("ana"), "hello", 1.0, True, remark="*I see no images.*"))
    answer = await team.reply_to("hello")
    assert answer.text.startswith(
        "*I see no images.*\n\n*The weights of large are damaged. small answers instead.*\n\n"
    )


async def test_only_the_urls_that_people_wrote_are_links(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("Is https://good.example up?", "Yes, https://good.example is, see https://bad.example/x")
    answer = await team.asks("ana", "Is https://good.example up?")
    assert answer.text == "Yes, https://good.example is, see `https://bad.example/x`"
    setup.engine.answers("again", "https://bad.example/x and https://good.example")
    assert (await team.asks("ana", "again")).text == "`https://bad.example/x` and https://good.example"


async def test_a_very_long_answer_comes_as_a_file(tmp_path: Path) -> None:
    async with run_service(tmp_path, limits=Limits(200, 0.0, attach_over=300)) as setup:
        words = " ".join(f"word-{number}" for number in range(200))
        setup.engine.answers("long", words)
        answer = await setup.team.asks("ana", "long")
        assert len(answer.text) < 400
        file = answer.parts[-1].reply.attachment
        assert file is not None
        assert file.text == words


async def test_while_a_model_thinks_the_seconds_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "THINKING_S", 1.0)
    async with run_service(tmp_path) as setup:
        setup.engine.answers("hello", "Hi.", reasoning="They greet me.")
        setup.platform.gates.hold("hello/thought")
        await setup.team.says("ana", "hello")
        message = await setup.team.sees("hello", "thinking")
        await setup.team.sees("hello", "thinking, 1 s")
        assert message.buttons == (ActionKind.STOP,)
        assert (setup.team.key, "thinking, 1 s") in setup.platform.statuses
        await setup.platform.gates.open("hello/thought")
        answer = await setup.team.reply_to("hello")
        assert answer.text == "Hi."
        assert "greet" not in str(message.history)


async def test_an_answer_that_is_nothing_but_thoughts_says_so_and_can_go_on(tmp_path: Path) -> None:
    async with run_service(tmp_path, think_tokens=50) as setup:
        team = setup.team
        setup.engine.answers("hard", "", reasoning="Hm, " * 50, reason=FinishReason.LENGTH)
        setup.engine.answers("hard", "Yes.", reasoning="Hm.")
        answer = await team.asks("ana", "hard")
        assert answer.text == ONLY_THOUGHT
        assert answer.first.buttons[:2] == (ActionKind.REGENERATE, ActionKind.CONTINUE)
        assert setup.engine.prompt_of("hard").params.think_tokens == 50
        assert isinstance(await team.presses(answer.first, ActionKind.CONTINUE), Accepted)
        assert (await team.reply_to("hard", 2)).text == "Yes."
        assert setup.engine.prompt_of("hard").params.think_tokens == 200
        assert setup.engine.prompt_of("hard").prompt.prefix == ""


async def test_thoughts_without_an_answer_are_not_nothing(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hard", "", reasoning="Hm.")
    assert (await team.asks("ana", "hard")).text == THOUGHT_ONLY


@pytest.mark.fault(47)
async def test_a_file_that_is_made_at_two_starts_keeps_an_error_of_several_messages(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        storage = await open_storage(make_settings(tmp_path).state_dir)
        request = asked("m1", key=GENERAL)
        await storage.inbox.accept(GENERAL, "m1", turns=[said("m1", key=GENERAL)], request=request)
        for _ in range(replies.SHOWN_AGAIN):
            await storage.inbox.start(request.request_id)
            await storage.inbox.recover()  # the service was killed
        await storage.inbox.finish(
            request.request_id,
            RequestStatus.FAILED,
            finish_reason=FinishReason.ERROR,
            usage=None,
            error="It failed badly.",
            answer=None,
            replies=[
                replace(part(request, n, text), attachment=None) for n, text in enumerate(("⚠️ It failed", "badly."))
            ],
        )
        await storage.close()
        platform.fails("post", Fault.RETRY, seconds=60)
        async with run_service(tmp_path, platform):
            await platform.until(lambda: bool(platform.struck), "it is shown")
        async with run_service(tmp_path, platform):
            await platform.until(lambda: bool(platform.posted), "it is shown again")
        (post,) = platform.posted
        assert post.reply.attachment == Attachment(FILE, "⚠️ It failed\n\nbadly.")
