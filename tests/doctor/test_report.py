"""Tests the report of findings: on terminals of two widths, in a pipe, as JSON, and never with a token."""

import io
import json

import pytest
from rich.console import Console

from bot.doctor.report import Report
from bot.types.findings import Finding, ok, warning, wrong

TOKEN = "a-token-for-tests"
FOUND = [
    ok("Python", "3.11.7 in /opt/inhouse"),
    warning("GPU", "found, but torch 2.13.0+cpu was built without CUDA", "Install a build of torch with CUDA."),
    wrong("Discord token", f"it is {TOKEN}, and Discord refused it", "Make a new one."),
    wrong("proxy", "http://bob:pass-word@proxy:3128 is not there", "Start it."),
]


def shown(width: int = 80, *, terminal: bool = True, encoding: str = "utf-8", found: list[Finding] = FOUND) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=stream, width=width, force_terminal=terminal, highlight=False)
    report = Report(console, [TOKEN])
    report.add("Machine", found, show=True)
    console.print(report.summary())
    stream.flush()
    return raw.getvalue().decode(encoding)


def without_colour(text: str) -> list[str]:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_gets_a_table_that_fits_and_can_be_read_without_colours(width: int) -> None:
    coloured = shown(width)
    lines = without_colour(coloured)
    assert "\x1b[32mok" in coloured
    assert max(map(len, lines)) <= width
    assert lines[0] == "Machine"
    assert lines[1].split() == ["ok", "Python", "3.11.7", "in", "/opt/inhouse"]
    starts = {
        line.index(word) for line in lines for word in ("3.11.7", "found, but", "it is [redacted]") if word in line
    }
    assert len(starts) == 1, "one column"
    assert any(line.strip().startswith("→ Install a build") for line in lines)
    assert lines[-1] == "1 ok, 1 warning, 2 wrong"


def test_a_link_that_the_table_breaks_follows_in_one_piece() -> None:
    long, short = f"https://discord.com/{'a' * 60}/bot", "https://discord.com"
    found = [warning("Discord intents", "it is off", f"Switch it on at {long}, then see {short}.")] * 2
    lines = without_colour(shown(found=found))
    assert [line for line in lines if line.strip() == long] == [f"    {long}"]
    assert not [line for line in lines if line.strip() == short]
    assert f"    {long}" not in without_colour(shown(160, found=found)), "there the table has it whole"


def test_a_terminal_without_unicode_gets_other_arrows() -> None:
    assert "-> Install" in shown(encoding="ascii")


def test_a_pipe_gets_a_line_each_without_colours() -> None:
    lines = shown(40, terminal=False).splitlines()
    assert len(lines) == len(FOUND) + 1
    assert lines[1] == (
        "warning  GPU: found, but torch 2.13.0+cpu was built without CUDA -> Install a build of torch with CUDA."
    )
    assert "\x1b" not in "".join(lines)


def test_no_token_is_shown_anywhere() -> None:
    report = Report(Console(file=io.StringIO()), [TOKEN])
    report.add("Machine", FOUND, show=False)
    for text in (shown(), shown(terminal=False), report.json()):
        assert TOKEN not in text
        assert "pass-word" not in text
        assert "[redacted]" in text


def test_a_program_gets_every_finding_as_an_object() -> None:
    report = Report(Console(file=io.StringIO()), [])
    report.add("Machine", FOUND[:2], show=False)
    assert json.loads(report.json()) == [
        {"check": "Python", "state": "ok", "found": "3.11.7 in /opt/inhouse", "fix": ""},
        {"check": "GPU", "state": "warning", "found": FOUND[1].found, "fix": FOUND[1].fix},
    ]


def test_brackets_in_what_was_found_are_no_markup() -> None:
    assert "[bold]x[/bold]" in "".join(without_colour(shown(found=[ok("a", "[bold]x[/bold]")])))


def test_nothing_wrong_is_said_as_that() -> None:
    assert without_colour(shown(found=FOUND[:1]))[-1] == "1 ok, 0 warnings, nothing is wrong"
