"""Tests that the crash test's verdict detects each kind of failure."""

from dataclasses import replace

import pytest

from tests.support.crash.platforms import Asked, Said
from tests.support.crash.verdict import Verdict, judged

QUESTION = Asked(7, 4, "general", "m1")
ANSWER = Said("general", "m1", "@everyone q7-0 q7-1 q7-2 q7-3", finished=True)
ERROR = Said("general", "m1", "⚠️ I gave it up.", finished=True)
FIRST = replace(ANSWER, text="q7-0 q7-1")
SECOND = replace(ANSWER, text="q7-2 q7-3", finished=False)
VOID = replace(SECOND, text="(This belonged to an earlier attempt; the answer is above.)")


@pytest.mark.parametrize(
    ("said", "answers", "errors"), [([ANSWER], 1, 0), ([FIRST, SECOND], 1, 0), ([ERROR], 0, 1), ([ERROR, VOID], 0, 1)]
)
def test_one_whole_answer_or_one_error_is_right(said: list[Said], answers: int, errors: int) -> None:
    assert judged([QUESTION], said) == Verdict(answers, errors)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ([], "lost"),
        ([FIRST], "lost"),
        ([SECOND, FIRST], "lost"),
        ([replace(ANSWER, finished=False)], "lost"),
        ([ANSWER, ANSWER], "double"),
        ([ANSWER, replace(ANSWER, text="@everyone", finished=False)], "double"),
        ([ANSWER, ERROR], "double"),
        ([ERROR, ERROR], "double"),
        ([replace(ANSWER, text="q8-0 q8-1 q8-2 q8-3")], "strays"),
        ([ANSWER, replace(ANSWER, place="random")], "strays"),
        ([ANSWER, replace(ANSWER, question="")], "strays"),
    ],
)
def test_whatever_else_is_a_fault(said: list[Said], kind: str) -> None:
    verdict = judged([QUESTION], said)
    assert getattr(verdict, kind)
    assert verdict.faults
