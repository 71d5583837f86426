"""Tests that the time for a text grows linearly with its length, for every function and every regular expression."""

import ast
import gc
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from tests.support.builders.hostile_text import ENDS, FUNCTIONS, SHAPES, TEXTS
from tests.support.regex_inventory import Expression, expressions, nested_repeats, pumped

SHORT, MIDDLE, LONG = 2_000, 32_000, 128_000
MOST_S = {SHORT: 1.0, MIDDLE: 3.0, LONG: 8.0}
"""CPU seconds after which a call is stopped, because exponential calls would not end."""
NOTHING_S = 0.01
"""Shorter times count as this much, because the clock may be coarse."""
MOST_GROWTH = 9
"""Largest factor for four times the text: 4 is linear, 16 is quadratic."""
TEXT_PARAMETERS = {"text", "line", "body", "markdown", "data", "word"}
ROOT = Path(__file__).parents[2]

Texts = Mapping[str, Callable[[int], str]]
EXPRESSIONS = expressions()


class TooSlow(Exception):
    """A call exceeded its time limit."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stops code that exceeds a CPU time limit. Raises TooSlow."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def seconds(call: Callable[[str], object], text: str) -> float:
    """CPU seconds of one call. Raises TooSlow.

    The garbage collector is off: a full collection visits the heap of the whole run, and only long texts cause one.
    """
    with limited(MOST_S[min(size for size in MOST_S if len(text) <= size * 1.1)]):
        gc.disable()
        try:
            began = time.process_time()
            call(text)
            return time.process_time() - began
        finally:
            gc.enable()


def fault(call: Callable[[str], object], texts: Texts) -> str:
    """What is wrong with a function's running time; '' if nothing is.

    Tries all texts at SHORT, the slowest of them at MIDDLE, and of these at LONG the slowest and the one that grew
    most.
    """
    short, label = {}, ""
    try:
        for label, make in texts.items():
            short[label] = seconds(call, make(SHORT))
        middle = {}
        for label in {*_slowest(short, 5), *SHAPES}:
            middle[label] = seconds(call, texts[label](MIDDLE))
        grown = {label: taken / max(short[label], NOTHING_S / 4) for label, taken in middle.items()}
        for label in {*_slowest(middle, 1), *_slowest(grown, 1)}:
            if seconds(call, texts[label](LONG)) > MOST_GROWTH * max(middle[label], NOTHING_S):
                # Turn by turn, so that other work on the processor slows both alike.
                turns = [(seconds(call, texts[label](MIDDLE)), seconds(call, texts[label](LONG))) for _ in range(3)]
                before, after = (min(times) for times in zip(*turns, strict=True))
                if after > MOST_GROWTH * max(before, NOTHING_S):
                    return f"{label}: {before:.3f} s for {MIDDLE} characters, {after:.3f} s for {LONG}"
    except TooSlow:
        return f"{label}: it was stopped"
    return ""


def _slowest(taken: Mapping[str, float], count: int) -> list[str]:
    return sorted(taken, key=lambda label: -taken[label])[:count]


def texts_for(pattern: re.Pattern[str]) -> Texts:
    """Texts made of the parts of an expression, and generic hostile texts."""
    own = {
        f"{prefix[:20]!r} {piece[:20]!r} … {end!r}": partial(_pumped, prefix, piece, end)
        for prefix, piece in list(pumped(pattern))[:60]
        for end in (*ENDS, "\0")
    }
    return {**TEXTS, **own}


def _pumped(prefix: str, piece: str, end: str, length: int) -> str:
    return prefix + piece * ((length - len(prefix) - len(end)) // len(piece)) + end


@pytest.mark.fault(45)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_takes_more_than_linear_time(name: str) -> None:
    assert not fault(FUNCTIONS[name], TEXTS)


@pytest.mark.fault(45)
@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_no_regular_expression_takes_more_than_linear_time(expression: Expression) -> None:
    texts = texts_for(expression.pattern)
    found = {name: wrong for name, call in expression.calls().items() if (wrong := fault(call, texts))}
    assert not found, f"{expression.pattern.pattern}: make it possessive or bounded"


@pytest.mark.fault(45)
def test_no_repetition_that_may_take_less_stands_in_another_one() -> None:
    wrong = [f"{each}: {each.pattern.pattern}" for each in EXPRESSIONS if nested_repeats(each.pattern)]
    assert not wrong, "\n".join(wrong)


BAD = {
    "exponential": (r"(?:a+)+$", "search"),
    "exponential over alternatives": (r"\[x\]\((?:[^()\n]|\([^()\n]*\)?)*$", "search"),
    "the fence of an earlier version": (r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\n`]*)$", "search"),
    "the rule of an earlier version": (
        r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*",
        "fullmatch",
    ),
    "the code span of an earlier version": (r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)", "search"),
    "white space at the end": (r"\s+$", "search"),
    "something between brackets": (r"<.*?>", "search"),
}


@pytest.mark.parametrize("name", BAD)
def test_these_tests_find_what_was_wrong_before(name: str) -> None:
    pattern, method = BAD[name]
    expression = Expression(name, re.compile(pattern, re.MULTILINE), frozenset({method}))
    assert fault(expression.calls()[method], texts_for(expression.pattern))


def test_a_repetition_in_another_one_is_seen() -> None:
    assert nested_repeats(re.compile(r"(?:a+b?)*"))
    assert nested_repeats(re.compile(r"(?:[^()\n]|\([^()\n]*\)?)*$"))
    assert not nested_repeats(re.compile(r"(?:a++b?)*c+"))
    assert not nested_repeats(re.compile(r"(?>(?:a+)*+)"))


def test_every_function_of_text_is_in_the_list() -> None:
    listed = {name.partition(" ")[0] for name in FUNCTIONS}
    missing = []
    for path in sorted([*(ROOT / "bot").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")]):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for function in ast.parse(path.read_text("utf-8")).body:
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                continue
            arguments = [*function.args.posonlyargs, *function.args.args]
            takes = {
                each.arg for each in arguments if each.annotation and ast.unparse(each.annotation) in ("str", "bytes")
            }
            name = f"{module}.{function.name}"
            if any(each.annotation and ast.unparse(each.annotation) == "Connection" for each in arguments):
                continue  # it stores the text as it is
            if takes & TEXT_PARAMETERS and name not in listed and not module.startswith("bot.engine"):
                missing.append(name)
    assert not missing, f"add these to tests/support/builders/hostile_text.py: {missing}"
