"""Tests names of files and users: no name breaks the sentence around it or the answer below it."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.generation.user_messages import cannot_see
from bot.platforms.adapter import Dialect
from bot.platforms.pictures import MAX_PICTURE_BYTES, picture_refusal
from bot.platforms.splitter import open_fence
from bot.platforms.textfiles import MAX_BYTES, read_as_text, refusal
from bot.replies.links import KnownLinks
from bot.replies.markdown import render
from bot.types.display_names import LENGTH, as_code, one_line
from bot.types.messages import FinishReason, IncomingMessage
from tests.support.builders.service import ServiceSetup
from tests.support.fakes.team import Team, person

pytest_plugins = ["tests.support.fixtures.service"]

HOSTILE = {
    "newlines and a heading": "a\n\n# Your account is locked\n\nb.png",
    "a fence": "a\n```\nb.png",
    "a fence of tildes": "~~~\nb.png",
    "backticks": "``` `` ` b.png",
    "bidirectional overrides": "a\u202egnp.exe\u2066\u200fb.png",
    "mentions and links": "<!channel> @everyone https://bad.example/x [x](https://bad.example).png",
    "30 kB": "\n# a" * 7500,
    "only invisible characters": "\u200b\u202e" * 15_000,
}


@given(st.text() | st.text("`~ \n\r\u2028\u202e\u200b<>&#*_a\\", max_size=3000), st.integers(2, 80))
def test_a_name_is_one_code_span_of_one_line(name: str, length: int) -> None:
    shown = as_code(name, length)
    inside = shown[1:-1]
    assert (shown[0], shown[-1]) == ("`", "`")
    assert inside.strip()
    assert inside == "(no name)" or len(inside) <= length
    assert "`" not in inside
    assert len(shown.splitlines()) == 1
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, inside))


@given(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=LENGTH))
def test_an_ordinary_name_is_shown_as_it_is(name: str) -> None:
    assert as_code(name) == f"`{name}`"
    assert one_line(name) == name


def test_a_long_name_is_cut_and_says_so() -> None:
    assert as_code("x" * 61) == f"`{'x' * 59}…`"
    assert as_code(" " * 5000 + "x") == "`…`"


@pytest.mark.fault(49)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("dialect", Dialect)
def test_a_file_name_neither_ends_the_sentence_nor_swallows_what_follows(name: str, dialect: Dialect) -> None:
    sentences = [
        cannot_see([name], ""),
        picture_refusal(name, MAX_PICTURE_BYTES + 1),
        refusal(name, MAX_BYTES + 1),
        read_as_text(name, b"%PDF\x00"),
    ]
    for sentence in sentences:
        assert isinstance(sentence, str)
        assert len(sentence.splitlines()) == 1
        assert len(sentence) < 200
        shown = render(sentence, dialect, KnownLinks())
        assert shown.count("`") == 2
        assert not open_fence(f"{shown}\n\nThe answer.")


@pytest.mark.fault(49)
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
async def test_the_answer_below_a_remark_about_a_hostile_file_is_whole(
    setup: ServiceSetup, team: Team, name: str
) -> None:
    core = setup.adapter.core
    assert core is not None
    team.asked["hello"] = "1"
    remark = cannot_see([name], "")
    await core.handle(IncomingMessage(team.key, "1", person("ana"), "hello", 1.0, True, remark=remark))
    answer = await team.reply_to("hello")
    assert answer.reason is FinishReason.STOP
    note, _, text = answer.text.partition("\n\n")
    assert text == "You said: hello"
    assert note.startswith("I cannot see images, so I left out `")


@pytest.mark.fault(49)
async def test_a_question_by_command_shows_who_asks_what_on_one_line(setup: ServiceSetup, team: Team) -> None:
    question = "```\n# Shout\n\u202e||"
    setup.engine.answers(question, "Quietly.")
    await team.command("ask", question, who="an*a\n```")
    assert (await team.reply_to(question)).text == "`An*A '''` asks: `''' # Shout ||`\n\nQuietly."


@pytest.mark.fault(49)
def test_the_cost_of_a_name_does_not_grow_with_its_length() -> None:
    def seconds(name: str) -> float:
        began = time.perf_counter()
        for _ in range(200):
            as_code(name)
        return time.perf_counter() - began

    for piece in ("a", "\n", "`", "\u202e", "<>"):
        short = min(seconds(piece * 1500) for _ in range(3))
        assert min(seconds(piece * 1_000_000) for _ in range(3)) < 20 * short + 0.01
