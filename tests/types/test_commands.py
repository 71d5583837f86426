"""Tests the table of commands: typed text becomes a command with a checked value, or a helpful error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.types.commands import (
    COMMANDS,
    UNEXPECTED,
    ArgumentType,
    find_command,
    help_text,
    parse_message,
    parse_text,
    parse_value,
    similar_commands,
)
from bot.types.errors import RequestRefused

NUMBERS = ("temperature", "top_p", "max_tokens")


def value(name: str, typed: str = "") -> str | None:
    """The checked value of a command for a typed argument."""
    command = find_command(name)
    assert command is not None
    return parse_value(command, {command.option.name: typed} if command.option and typed else {})


@pytest.mark.parametrize(
    ("typed", "name", "args"),
    [
        ("!temperature 0.2", "temperature", {"value": "0.2"}),
        ("!Temperature   0.2 ", "temperature", {"value": "0.2"}),
        ("!top-p 0.5", "top_p", {"value": "0.5"}),
        ("!ask What is\n\nthis?", "ask", {"prompt": "What is\n\nthis?"}),
        ("!system\nBe terse.\nBe kind.", "system", {"prompt": "Be terse.\nBe kind."}),
        ("!ask\tthis", "ask", {"prompt": "this"}),
        ("!settings", "settings", {}),
        ("!settings please", "settings", {UNEXPECTED: "please"}),
        ("!system   ", "system", {}),
    ],
)
def test_a_command_in_a_text(typed: str, name: str, args: dict[str, str]) -> None:
    assert parse_text(typed) == (name, args)


@pytest.mark.parametrize("typed", ["", "!", "! ", "hello", "!!", "!important thing", "hello !status", "/status"])
def test_what_is_no_command_is_left_alone(typed: str) -> None:
    assert parse_text(typed) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("!reset", ("reset", {})),
        ("! reset", None),
        ("!reset my password please", None),
        ("!forget MINE", ("forget", {"what": "MINE"})),
        ("!forget what I said", None),
        ("!temperature hot", ("temperature", {"value": "hot"})),
        ("!temperature in Paris", None),
        ("!model phi-4", ("model", {"name": "phi-4"})),
        ("!model trains", ("model", {"name": "trains"})),
        ("!model trains are fun", None),
        ("!system you are\na pirate", ("system", {"prompt": "you are\na pirate"})),
        ("!ask", ("ask", {})),
        ("!ask what is it?", ("ask", {"prompt": "what is it?"})),
        ("!stop\nit", None),
    ],
)
def test_a_message_is_a_command_only_if_it_is_nothing_else(text: str, found: tuple[str, dict[str, str]] | None) -> None:
    assert parse_message(text) == found


def test_a_command_that_takes_nothing_is_refused_with_more() -> None:
    command = find_command("reset")
    assert command is not None
    with pytest.raises(RequestRefused, match="reset takes nothing after its name"):
        parse_value(command, {UNEXPECTED: "my password please"})


def test_another_prefix() -> None:
    assert parse_text("inhouse: status", "inhouse:") == ("status", {})
    assert parse_text("!status", "inhouse:") is None


@pytest.mark.parametrize(
    ("name", "typed", "checked"),
    [
        ("temperature", "0", "0"),
        ("temperature", "2", "2"),
        ("temperature", "0,5", "0.5"),
        ("top_p", "0.01", "0.01"),
        ("max_tokens", " 8192 ", "8192"),
        ("forget", "MINE", "mine"),
        ("system", "  Be terse. ", "Be terse."),
        ("system", "Be \ud83d.", "Be ?."),
        ("temperature", "", None),
        ("status", "", None),
    ],
)
def test_a_value_that_is_right(name: str, typed: str, checked: str | None) -> None:
    assert value(name, typed) == checked


@pytest.mark.parametrize(
    ("name", "typed", "sentence"),
    [
        ("temperature", "2.1", "temperature must be between 0 and 2, not 2.1."),
        ("temperature", "-0.1", "temperature must be between 0 and 2"),
        ("temperature", "nan", "temperature must be between 0 and 2"),
        ("temperature", "inf", "temperature must be between 0 and 2"),
        ("temperature", "hot", "temperature must be a number between 0 and 2, not `hot`."),
        ("top_p", "0", "top_p must be between 0.01 and 1, not 0."),
        ("max_tokens", "0", "max_tokens must be between 1 and 8192, not 0."),
        ("max_tokens", "12.5", "max_tokens must be a whole number between 1 and 8192, not `12.5`."),
        ("max_tokens", "9" * 5000, "max_tokens must be a whole number between 1 and 8192"),
        ("export", "pdf", "export must be markdown, json or thoughts, not `pdf`."),
        ("ask", "", "ask needs a prompt: your question."),
    ],
)
def test_a_value_that_is_wrong_is_answered_with_what_is_right(name: str, typed: str, sentence: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        value(name, typed)
    assert sentence in str(refusal.value)
    assert len(str(refusal.value)) < 200


@given(st.sampled_from(NUMBERS), st.one_of(st.text(max_size=20), st.floats().map(str), st.integers().map(str)))
def test_whatever_is_typed_a_number_is_in_its_range_or_refused(name: str, typed: str) -> None:
    command = find_command(name)
    assert command is not None
    assert command.option is not None
    try:
        checked = value(name, typed)
    except RequestRefused:
        return
    if checked is not None:
        assert command.option.minimum is not None
        assert command.option.maximum is not None
        number = int(checked) if command.option.kind is ArgumentType.INTEGER else float(checked)
        assert command.option.minimum <= number <= command.option.maximum
        assert math.isfinite(number)


@given(st.text(max_size=60))
def test_whatever_is_written_is_a_command_of_the_table_or_none(text: str) -> None:
    for typed in (text, f"!{text}"):
        parsed = parse_text(typed)
        if parsed is not None:
            command = find_command(parsed[0])
            assert command is not None
            assert set(parsed[1]) <= {command.option.name if command.option else UNEXPECTED}


def test_a_slip_of_the_pen_gets_a_hint() -> None:
    assert similar_commands("temprature") == "; did you mean temperature?"
    assert similar_commands("xyzzy") == ""
    assert find_command("xyzzy") is None


def test_help_names_every_command_its_argument_and_who_may() -> None:
    lines = help_text("!").splitlines()
    assert len(lines) == len(COMMANDS)
    assert "`!ask prompt` Ask something" in lines
    assert "`!model [name]` Show or change the model (admins)" in lines
    assert "`!status` Show model, hardware, memory, speed and queue" in lines
