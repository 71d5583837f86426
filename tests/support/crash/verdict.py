"""Checks that each question got exactly one whole answer or one error, where it was asked.

The answer to question 7 is "q7-0 q7-1 ...", so that the words show what is missing, duplicated or misplaced.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.crash.platforms import Asked, Said

ERROR = "⚠️"
"""Marks an error in place of an answer."""

VOIDED = "belonged to an earlier attempt"
"""Text of a message that the answer no longer needs."""

_WORD = re.compile(r"q(\d+)-(\d+)")
_SIGNED = re.compile(r"\(q(\d+) by (\w+)\)")


@dataclass
class Verdict:
    """Numbers of answers and errors, and a description of each question that failed."""

    answers: int = 0
    errors: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    amiss: list[str] = field(default_factory=list)  # anything else

    @property
    def faults(self) -> list[str]:
        """All failures."""
        return self.lost + self.double + self.strays + self.amiss


def signatures(text: str) -> set[tuple[int, str]]:
    """The numbers of the questions that a text answers, each with the host that wrote it."""
    return {(int(number), host) for number, host in _SIGNED.findall(text)}


def judged(asked: Sequence[Asked], said: Sequence[Said]) -> Verdict:
    """Judges all messages so far; a question without an answer counts as lost."""
    verdict, to = Verdict(), defaultdict[tuple[str, str], list[Said]](list)
    for each in said:
        to[each.place, each.question].append(each)
    for question in asked:
        _judge(question, to.pop((question.place, question.message_id), []), verdict)
    verdict.strays += [f"{each.text!r} in {each.place}" for group in to.values() for each in group]
    return verdict


def _judge(question: Asked, said: Sequence[Said], verdict: Verdict) -> None:
    text = "\n".join(each.text for each in said)
    errors = text.count(ERROR)
    words = [(int(name), int(number)) for name, number in _WORD.findall(text)]
    expected = [(question.number, number) for number in range(question.words)]
    ends = sum(each.finished for each in said)
    idle = [each for each in said if not _WORD.search(each.text) and ERROR not in each.text and VOIDED not in each.text]
    shown = f"question {question.number}: {[each.text for each in said]}"
    if set(words) - set(expected):
        verdict.strays.append(shown)
    if len(set(words)) < len(words) or errors > 1 or ends > 1 or (ends and (idle or (errors and words))):
        verdict.double.append(shown)
    elif errors and ends:
        verdict.errors += 1
    elif words == expected and ends:
        verdict.answers += 1
    else:
        verdict.lost.append(shown)
