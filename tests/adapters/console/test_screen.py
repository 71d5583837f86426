"""Tests the screen as users see it, drawn into a terminal emulator and read back."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from adapters.console.screen import footer
from adapters.console.terminal_markdown import stable_prefix
from bot.types.messages import Attachment, FinishReason, Notice, Refused, Usage
from tests.support.builders.console_window import HEIGHT, WIDTH, Chat, pieces, reply


async def test_an_answer_and_its_quiet_line(tmp_path: Path) -> None:
    chat = Chat(tmp_path, "What is the capital of France?")
    chat.core.says("The capital is ", "**Paris**.")
    assert await chat.run() == (
        "The capital is Paris.\n\nGenerated 90 tokens in 4.2 s (21.4 tokens/s), first after 0.3 s"
    )


async def test_a_long_answer_scrolls_and_every_line_is_there_once(tmp_path: Path) -> None:
    listing = "\n".join(f"line_{number} = {number}" for number in range(40))
    paragraphs = "\n\n".join(f"Paragraph {number} says something." for number in range(20))
    answer = f"# Title\n\n{paragraphs}\n\n```python\n{listing}\n```\n\nAnd the end."
    chat = Chat(tmp_path, "one")
    chat.core.says(*pieces(answer, 7), usage=None)
    words = (await chat.run()).split()
    assert words == answer.replace("# ", "").replace("```python", "").replace("```", "").split()


async def test_an_answer_looks_the_same_however_it_arrived(tmp_path: Path) -> None:
    code = "\n".join(f"\tif x == {number}: {'y + ' * (number * 2)}1\n" for number in range(20))
    items = "\n".join(f"- item {number} {'word ' * number}" for number in range(30))
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    answer = f"# Title\n\nText:\n{items}\n\n```python\n{code}\n```\n\n> quoted\n\n{table}\n\nEnd."
    shown = []
    for size in (3, 50, 10_000):
        chat = Chat(tmp_path, "one")
        chat.core.says(*pieces(answer, size), usage=None)
        shown.append(await chat.run())
    assert shown[0] == shown[1] == shown[2]
    assert "quoted\n\n a" in shown[0], "one empty line between blocks"


async def test_only_what_the_window_holds_is_drawn_again(tmp_path: Path) -> None:
    chat = Chat(tmp_path)
    with chat.screen.answering(lambda: None):
        chat.screen.show(reply("", "\n\n".join(f"Paragraph {number}" for number in range(100))))
        await chat.until(lambda terminal: "Paragraph 99" in terminal.text)
        seen = [line for line in chat.terminal.lines if line]
        assert seen[-1] == "Paragraph 99"
        assert len(seen) < HEIGHT
        chat.screen.show(reply("Done.", final=True))
    assert chat.terminal.text.startswith("Done.\n")


@pytest.mark.parametrize("width", [60, WIDTH // 2])
@pytest.mark.parametrize(
    "block",
    [
        " ".join(f"word{number}" for number in range(60)),
        "```python\n" + "\n".join(f"line{number} = {'x' * 50}" for number in range(3)),
        "\n".join(f"- item{number} {'text ' * 15}" for number in range(5)),
    ],
)
async def test_a_narrower_window_does_not_repeat_text(tmp_path: Path, width: int, block: str) -> None:
    chat = Chat(tmp_path)
    with chat.screen.answering(lambda: None):
        chat.screen.show(reply(f"Printed for good.\n\n{block}\n"))
        await chat.until(lambda terminal: block.split()[-1] in terminal.text)
        chat.terminal.narrow(width)
        chat.console.width = width
        await asyncio.sleep(0.2)
        partial = chat.terminal.text
        chat.screen.show(reply(f"Printed for good.\n\n{block}", final=True, usage=None))
    for text in (partial, chat.terminal.text):
        words = [word for word in text.split() if word[-1].isdecimal()]
        assert len(words) == len(set(words)), text
        assert text.startswith("Printed for good.\n")
    assert words, text


async def test_complete_blocks_are_printed_for_good_while_the_next_one_grows(tmp_path: Path) -> None:
    chat = Chat(tmp_path)
    with chat.screen.answering(lambda: None):
        chat.screen.show(reply("One.\n\nTwo.\n\nThr", "ee"))
        chat.screen.show(reply("One.\n\nTwo.\n\nThree", " and"))
        await chat.until(lambda terminal: terminal.text == "One.\n\nTwo.\n\nThree and")
        assert chat.terminal.written.count("One.") == 1
        chat.screen.show(reply("One.\n\nTwo.\n\nThree and four.", final=True, usage=None))
    assert chat.terminal.text == "One.\n\nTwo.\n\nThree and four."


async def test_a_spinner_says_what_is_waited_for_until_text_comes(tmp_path: Path) -> None:
    chat = Chat(tmp_path)
    with chat.screen.answering(lambda: None):
        chat.screen.waiting("2nd in line, about 20 s")
        await chat.until(lambda terminal: "2nd in line, about 20 s" in terminal.text)
        chat.screen.show(reply("", "Hel"))
        await chat.until(lambda terminal: terminal.text == "Hel")
        chat.screen.show(reply("Hello.", final=True, usage=None))
    assert chat.terminal.text == "Hello."


async def test_an_answer_that_begins_anew_is_shown_whole(tmp_path: Path) -> None:
    chat = Chat(tmp_path)
    with chat.screen.answering(lambda: None):
        chat.screen.show(reply("First try.\n\nIt went on.\n\nAnd ", "on"))
        chat.screen.show(reply("*phi-4 would not load.*\n\nSecond try.", final=True, usage=None))
    assert chat.terminal.text == "First try.\n\nphi-4 would not load.\n\nSecond try."


async def test_an_error_stands_under_what_was_written(tmp_path: Path) -> None:
    chat = Chat(tmp_path, "one")
    chat.core.says("**Half** an", "\n\n⚠ The model's process ended.", reason=FinishReason.ERROR, usage=None)
    assert await chat.run() == "Half an\n⚠ The model's process ended."


async def test_another_answer_that_ends_meanwhile_is_printed_above(tmp_path: Path) -> None:
    chat = Chat(tmp_path)
    with chat.screen.answering(lambda: None):
        chat.screen.show(reply("", "Mine"))
        chat.screen.show(reply("From before.", final=True, reply_id="other", usage=None))
        chat.screen.show(reply("Mine is done.", final=True, usage=None))
    assert chat.terminal.text == "From before.\n\nMine is done."


async def test_links_are_shown_and_control_characters_are_not(tmp_path: Path) -> None:
    chat = Chat(tmp_path, "one", "/status")
    chat.core.says("[bank](https://evil.example) \x1b]0;title\x07", usage=None)
    chat.core.notices["status"] = Refused("No \x1b[2J help.")
    assert await chat.run() == "bank (https://evil.example) ]0;title\n\nNo [2J help."


async def test_exports_are_saved_beside_each_other(tmp_path: Path) -> None:
    chat = Chat(tmp_path, "/export", "/export")
    chat.core.notices["export"] = Notice("Here it is.", attachment=Attachment("../chat.md", "**you**\n"))
    shown = await chat.run()
    assert [(tmp_path / name).read_text() for name in ("chat.md", "chat-2.md")] == ["**you**\n"] * 2
    assert f"Saved as {tmp_path / 'chat-2.md'}" in shown.replace("\n", "")
    assert chat.said.asked == ["chat.md exists. Overwrite it?"]


async def test_an_export_replaces_a_file_if_the_person_says_so(tmp_path: Path) -> None:
    (tmp_path / "chat.md").write_text("older and longer")
    chat = Chat(tmp_path, "/export")
    chat.said.sure = True
    chat.core.notices["export"] = Notice("Here it is.", attachment=Attachment("chat.md", "new"))
    assert f"Saved as {tmp_path / 'chat.md'}" in (await chat.run()).replace("\n", "")
    assert (tmp_path / "chat.md").read_text() == "new"
    assert not (tmp_path / "chat-2.md").exists()


async def test_help_is_a_table_as_wide_as_the_window(tmp_path: Path) -> None:
    chat = Chat(tmp_path, "/help")
    chat.terminal.narrow(60)
    chat.console.width = 60
    lines = (await chat.run()).splitlines()
    assert "/model [name]         Show or change the model" in lines
    assert "/top_p [value]        Choose only among the likeliest words" in lines
    assert "                      with this total probability" in lines
    assert any(line.startswith("Ctrl-D ") for line in lines)


async def test_an_export_that_cannot_be_saved_is_reported(tmp_path: Path) -> None:
    chat = Chat(tmp_path / "nowhere", "/export")
    chat.core.notices["export"] = Notice("Here it is.", attachment=Attachment("chat.md", ""))
    shown = " ".join((await chat.run()).split())
    assert f"chat.md cannot be saved in {tmp_path / 'nowhere'} (No such file or directory)." in shown


def test_the_quiet_line_says_what_there_is_to_know() -> None:
    cut = replace(reply("x", final=True), finish_reason=FinishReason.LENGTH)
    assert footer(cut).endswith("; cut at max_tokens, /continue goes on")
    crowded = replace(cut, usage=Usage(8000, 0, 1, 0.0, 0.0, 0.0, 8192, 4), finish_reason=FinishReason.STOP)
    assert footer(crowded) == (
        "Generated 1 token in 0.0 s, first after 0.0 s; the oldest 4 messages did not fit, see /why"
    )
    assert footer(replace(cut, usage=None)) == ""


BLOCKS = st.sampled_from(
    [
        "A paragraph\nof two lines.",
        "# Heading",
        "Title\n===",
        "- one\n- two\n\n- three",
        "1. one\n\n2. two",
        "3. one\n   - nested",
        "> quoted\nlazily",
        "```python\nx = 1\n\n# no heading\n```",
        "    indented\n\n    code",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "---",
        "~~~\nnever closed",
        "",
    ]
)


@given(st.lists(BLOCKS, max_size=6), st.sampled_from(["\n", "\n\n"]), st.data())
def test_what_is_settled_never_changes(blocks: list[str], between: str, data: st.DataObject) -> None:
    text = between.join(blocks)
    cut = data.draw(st.integers(0, len(text)))
    done = stable_prefix(text[:cut])
    assert done <= cut
    html = MarkdownIt().enable("table").render
    assert html(text[:done]) + html(text[done:]) == html(text)
