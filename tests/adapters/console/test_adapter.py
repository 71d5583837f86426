"""Tests the console adapter through the adapter protocol, with a scripted service."""

import asyncio
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from adapters.console.adapter import KEY, ConsoleAdapter
from adapters.console.piped import PlainScreen
from bot.platforms.adapter import Core
from bot.types.commands import COMMANDS
from bot.types.errors import StorageError
from bot.types.messages import (
    Attachment,
    FinishReason,
    IncomingCommand,
    IncomingMessage,
    Notice,
    Person,
    Refused,
    Reply,
)
from tests.support.fakes.scripted_core import ScriptedCore


class Said:
    """A line source with a fixed list of lines."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        self.forgotten = False
        self.asked: list[str] = []
        self.sure = False

    async def ask(self, core: Core) -> str | None:
        return self.lines.pop(0) if self.lines else None

    async def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.sure

    def clear_history(self) -> None:
        self.forgotten = True


@dataclass
class Talk:
    """One run of the console, and its screen contents."""

    adapter: ConsoleAdapter
    core: ScriptedCore
    lines: Said
    out: io.StringIO
    err: io.StringIO

    async def run(self) -> None:
        async with asyncio.timeout(10):
            await self.adapter.run(self.core)

    @property
    def printed(self) -> tuple[str, str]:
        return self.out.getvalue(), self.err.getvalue()


def talk(*lines: str) -> Talk:
    out, err, said = io.StringIO(), io.StringIO(), Said(lines)
    adapter = ConsoleAdapter(said, PlainScreen(out, err))
    return Talk(adapter, ScriptedCore(adapter), said, out, err)


async def test_a_question_gets_its_answer_alone_on_stdout() -> None:
    one = talk("What is the capital of France?\n")
    one.core.says("The capital ", "of France ", "is Paris.", wait_line="2nd in line")
    before = time.time()
    await one.run()
    assert one.printed == ("The capital of France is Paris.\n", "")
    assert not one.adapter.failed
    (question,) = one.core.events
    assert isinstance(question, IncomingMessage)
    assert (question.key, question.text, question.addressed) == (KEY, "What is the capital of France?", True)
    assert question.author.manages_channel
    assert question.author.manages_workspace
    assert before <= question.sent_at <= time.time()


async def test_questions_are_answered_one_after_another() -> None:
    several = talk("one", "", "  ", "two", "three")
    for answer in ("First.", "Second.", "Third."):
        several.core.says(answer[:2], answer[2:])
    await several.run()
    assert several.printed == ("First.\nSecond.\nThird.\n", "")
    ids = [event.message_id for event in several.core.events if isinstance(event, IncomingMessage)]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("word", ["exit", "quit", " exit "])
async def test_exit_leaves(word: str) -> None:
    leaving = talk(word, "never asked")
    await leaving.run()
    assert leaving.core.events == []


async def test_an_answer_that_is_an_error_goes_to_stderr_and_the_next_question_is_asked() -> None:
    unlucky = talk("one", "two")
    unlucky.core.says("Half an ", error="The model's process ended.", reason=FinishReason.ERROR, usage=None)
    unlucky.core.says("Second.")
    await unlucky.run()
    assert unlucky.printed == ("Half an\nSecond.\n", "The model's process ended.\n")
    assert unlucky.adapter.failed


async def test_lines_are_written_as_soon_as_they_are_complete() -> None:
    poem = talk("one")
    poem.core.says("\nFirst line,\nsecond line,\n\nthi", "rd", until_stopped=True)
    running = asyncio.create_task(poem.run())
    await poem.core.writing.wait()
    assert poem.printed == ("First line,\nsecond line,\n\n", "")
    poem.core.stopped.set()
    await running
    assert poem.printed == ("First line,\nsecond line,\n\nthird\n", "")


async def test_a_refusal_is_reported_and_counts_as_a_failure() -> None:
    refused = talk("one")
    refused.core.says(outcome=Refused("The queue is full."))
    await refused.run()
    assert refused.printed == ("", "The queue is full.\n")
    assert refused.adapter.failed


async def test_what_could_not_be_stored_is_reported() -> None:
    unstored = talk("one", "two")
    unstored.core.says(outcome=StorageError("The disk is full."))
    unstored.core.says("Second.")
    await unstored.run()
    assert unstored.printed == ("Second.\n", "The disk is full.\n")


async def test_a_command_is_sent_as_one_and_its_notice_shown() -> None:
    commanding = talk("/temperature 0.2", "/top-p 0.5")
    await commanding.run()
    first, second = commanding.core.events
    assert isinstance(first, IncomingCommand)
    assert isinstance(second, IncomingCommand)
    assert (first.key, first.name, first.args) == (KEY, "temperature", {"value": "0.2"})
    assert (second.name, second.args) == ("top_p", {"value": "0.5"})
    assert first.event_id != second.event_id
    assert commanding.printed[0].startswith("**temperature**")


async def test_the_answer_to_a_command_is_waited_for() -> None:
    again = talk("/regenerate", "next")
    again.core.says("Another ", "answer.")
    again.core.says("Next.")
    await again.run()
    assert again.printed == ("Another answer.\nNext.\n", "")


async def test_a_mistyped_command_is_not_sent_to_the_model() -> None:
    mistyped = talk("/temprature 1", "/xyzzy")
    await mistyped.run()
    assert mistyped.core.events == []
    assert mistyped.printed[1] == (
        "There is no /temprature; did you mean temperature?\nThere is no /xyzzy; /help shows the commands.\n"
    )


async def test_a_path_is_no_command() -> None:
    path = talk("/usr/bin is what?")
    path.core.says("A directory.")
    await path.run()
    assert path.printed == ("A directory.\n", "")


async def test_forget_also_forgets_the_typed_lines() -> None:
    forgetting = talk("/forget all")
    await forgetting.run()
    assert forgetting.lines.forgotten
    keeping = talk("/forget all")
    keeping.core.notices["forget"] = Refused("Not now.")
    await keeping.run()
    assert not keeping.lines.forgotten


async def test_an_export_comes_with_its_file() -> None:
    exporting = talk("/export")
    exporting.core.notices["export"] = Notice("2 messages.", attachment=Attachment("chat.md", "**you**\n\nHi\n"))
    await exporting.run()
    assert exporting.printed == ("2 messages.\n**you**\n\nHi\n", "")


async def test_help_is_one_command_a_line_in_two_columns() -> None:
    asking = talk("/help")
    await asking.run()
    lines = asking.printed[0].splitlines()
    assert len(lines) == len(COMMANDS)
    assert lines[2].startswith("/temperature [value]  Randomness")
    assert len({line.index(command.description) for line, command in zip(lines, COMMANDS, strict=True)}) == 1
    assert "(" not in asking.printed[0].replace("(default)", ""), "there are no roles here"


async def test_control_characters_never_reach_the_terminal() -> None:
    nasty = talk("one")
    nasty.core.says("\x1b]0;title\x07 red\x1b[31m\ttab\r\x9b2J\x00")
    await nasty.run()
    assert nasty.printed == ("]0;title red[31m\ttab2J\n", "")


async def test_an_answer_owed_from_before_is_shown_and_does_not_end_the_waiting() -> None:
    resumed = talk("one")
    person = Person("local", "you")
    old = Reply("old", "old-request", KEY, 0, "m", person, "From before.", final=True, finish_reason=FinishReason.STOP)
    assert await resumed.adapter.find_posted(old) is None
    assert await resumed.adapter.post(old) == "old"
    resumed.core.says("New.", until_stopped=True)
    running = asyncio.create_task(resumed.run())
    await resumed.core.writing.wait()
    await resumed.adapter.update(old)
    await asyncio.sleep(0)
    assert not running.done()
    resumed.core.stopped.set()
    await running
    assert resumed.printed == ("From before.\nFrom before.\nNew.\n", "")


async def test_nothing_was_said_while_the_program_did_not_run() -> None:
    assert await talk().adapter.fetch_since(KEY, "", 50) == ()


async def test_close_ends_the_waiting_for_an_answer() -> None:
    stuck = talk("one", "two")
    stuck.core.says("Begin", until_stopped=True)
    running = asyncio.create_task(stuck.run())
    await stuck.core.writing.wait()
    await stuck.adapter.close()
    await running
    assert stuck.adapter.failed, "the question had no answer"
    await stuck.run()
    assert len(stuck.core.events) == 1, "a closed adapter does not run again"


async def test_cancelling_run_ends_the_conversation() -> None:
    stuck = talk("one", "two")
    stuck.core.says("Begin", until_stopped=True)
    running = asyncio.create_task(stuck.adapter.run(stuck.core))
    await stuck.core.writing.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    stuck.core.stopped.set()
    await asyncio.gather(*stuck.core.tasks)
    assert len(stuck.core.events) == 1


@pytest.mark.parametrize("failing", [OSError, KeyError])
async def test_a_user_without_a_name_is_you(monkeypatch: pytest.MonkeyPatch, failing: type[Exception]) -> None:
    def nameless() -> str:
        raise failing

    monkeypatch.setattr("getpass.getuser", nameless)
    nobody = talk("one")
    nobody.core.says("Hello.")
    await nobody.run()
    (question,) = nobody.core.events
    assert isinstance(question, IncomingMessage)
    assert question.author.name == "you"
