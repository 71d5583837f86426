"""Lists the faults that the service must survive, and the tests that inject each.

Reads the test files without running them: `@pytest.mark.fault(number)` marks a test. `python -m tests.fault_list`
prints a table; `--markdown` prints docs/faults.md.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent

Tests = Mapping[int, Sequence[str]]
"""Fault number to its tests, as 'folder/test_file.py::test_name'."""

SECTIONS = {
    1: "Delivery",
    16: "Posting",
    26: "Engine",
    35: "State and attack",
    45: "What may freeze it",
    57: "Model servers",
    61: "Pictures",
    63: "Several hosts",
}
"""First fault number of each section."""

FAULTS = {
    1: "One envelope of Slack's comes three times: one reply",
    2: "A mention comes as two events, and then as a change of the message: one reply",
    3: "Killed after a message was stored and before it was acknowledged: it comes again, one reply",
    4: "Killed before it was stored: it comes again (Slack) or is read back (Discord), one reply",
    5: "The disk is full when it is to be stored: no acknowledgement, a line in the log, served later",
    6: "Two messages, or two edits of one, are handled in the wrong order: the history has the platform's",
    7: "Discord asks for another connection (op 7) during an answer: resumed, one reply",
    8: "Discord ends the session (op 9): a new one, read back, nothing lost",
    9: "No frame comes any more: closed so that it can be resumed, within two beats",
    10: "Away for ten minutes, 60 mentions missed: answered up to the bound, none twice",
    11: "A channel with an old history that was never heard: nothing of it is answered",
    12: "Refused for good: at the start exit 78 with the fix, later only that platform stops; no session is wasted",
    13: "Slack asks for another socket under load: nothing lost",
    14: "A line that is dead and looks alive: left within 40 s on Slack, two beats on Discord",
    15: "A second instance on the same state, or on a copy of it with the same server: it refuses to start, exit 78",
    16: "A post is answered by 502, the next try works: one message",
    17: "Slack shows a post and its answer is lost: found, not posted again",
    18: "The same on Discord, with a restart after the nonce expired: found in the history",
    19: "A channel is limited for 30 s: it waits, other channels flow, no further 429",
    20: "Everything is limited: all posts pause, the queue holds",
    21: "A channel forbids writing: tried once, left alone, counted",
    22: "The message or its channel is deleted meanwhile: dropped with one line in the log",
    23: "An edit is refused half-way: the final text arrives, once",
    24: "An answer of 12,000 characters with code: ordered parts, every fence whole",
    25: "An emoji comes in pieces: no replacement character is ever posted",
    26: "The memory does not suffice for a prompt: tried once more, else a clear error; the next one is fine",
    27: "The engine's process dies in the middle of an answer: restarted, the same reply is finished",
    28: "A request kills it every time: two attempts, then an error; others are served",
    29: "The engine stands still: replaced within 60 s; one that is only slow is left alone",
    30: "A model is missing, damaged, pickled, gated or out of reach, or too large for the disk: named, with the fix",
    31: "Stopped, or its question deleted: ends at the next step, its memory is free; prompts hold up nobody for long",
    32: "The queue is full: refused at once, nothing is stored half-way",
    33: "A conversation outgrows the window: the oldest turns go, the system prompt stays, it is said once",
    34: "SIGTERM in the middle of an answer: finished, or gone on with by the next start",
    35: "SIGKILL at named and at random moments: the state is sound, the promise holds",
    36: "The power fails, and writes that were not synced are gone: what was acknowledged is there",
    37: "The database is locked: for 1 s stored in time, for 6 s not acknowledged and served later",
    38: "The wall clock jumps back an hour: deadlines hold",
    39: "Mentions of everybody, of roles, people and channels in an answer: nobody is notified, by edits neither",
    40: "Control tokens of a template in text, names or files: content never becomes one",
    41: "Conversations with words of their own: no word ever crosses, in 1,000 random steps",
    42: "One person sends 500 messages: the others' waiting stays bounded",
    43: "A token inside a library's exception: redacted in the log",
    44: "Malformed payloads, settings and catalogs: an error each, never a crash",
    45: "A hostile line in an answer: shown in linear time, and nobody else waits",
    46: "Links that no person wrote, in any form, and bidi overrides: code, or dropped",
    47: "What killed the service twice was perhaps the showing of an answer: it comes as a file, not shown again",
    48: "The event loop is held up: a thread logs where it stands; SIGTERM ends the service within its drain",
    49: "A file's name has newlines, headings, fences or 30 kB: one line of code, and the answer is whole",
    50: "Hundreds of questions in one second: each is acknowledged in time",
    51: "Half-open and slow connections to the status page: no acknowledgement, answer or probe is lost",
    52: "Malformed requests to the status page, and guesses at its token: 4xx each, and the right token gets in",
    53: "A FIFO or directory in the place of a state file, tables newer than their version: one sentence, exit 78",
    54: "A chat template without end, or one that makes gigabytes: refused in seconds, by name; the others are served",
    55: "A stage of a load stands still: given up after 60 s, by name; one that is only slow is left alone",
    56: "A megabyte of files in one question: refused by its length; running answers go on while a prompt is built",
    57: "A model's server is killed in the middle of an answer: written again on another one, in the same message",
    58: "Every server of the model is down: questions wait and say so, and go on when one is back",
    59: "A model's server hangs, or is busy or loading: others answer, none is given up",
    60: "A model's server breaks off an answer, or sends malformed or endless lines: never taken as whole",
    61: "A picture is a bomb, damaged, cut off or none, or has a file behind it: one sentence, or only its pixels",
    62: "A model's server refuses pictures: asked again without them, and the answer says so",
    63: "A host dies, or is stopped, while a request is handed over: answered once, in the same message",
    64: "A host does not hand over what another one took: others are served, and nobody waits for ever",
    65: "A host does not know a request that it holds, after a write that failed: it waits again, within seconds",
    66: "Hosts lose the notifications between them: a second later each",
    67: "A stop, an edit or a deletion reaches another host than the one that writes the answer: it counts at once",
    68: "Hosts are killed while they write one answer: given up after three kills, never after hand-overs",
    69: "A host reaches Discord no more: after a minute it leaves the gateway to another one, which reads back",
}


def injected(folder: Path = HERE) -> dict[int, list[str]]:
    """The tests in `folder` by the fault numbers that they are marked with, known or not."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for name, number in _marks(ast.parse(path.read_text("utf-8"))):
            found[number].append(f"{path.relative_to(folder).as_posix()}::{name}")
    return dict(found)


def table(tests: Tests) -> str:
    """Formats a terminal table: one line per fault, its tests below it."""
    lines = []
    for number, fault in FAULTS.items():
        lines += [f"{number:2} {fault}", *(f"     {test}" for test in tests.get(number, ["(no test)"]))]
    return "\n".join(lines)


def markdown(tests: Tests) -> str:
    """Formats docs/faults.md: one table per section."""
    lines = [
        "# The faults that were thought of, and the tests that inject them",
        "",
        "The outcome of each: nothing is lost, nothing is said twice, and one clear sentence is read.",
        "`python -m tests.fault_list --markdown > docs/faults.md` writes this file.",
    ]
    for number, fault in FAULTS.items():
        if number in SECTIONS:
            lines += ["", f"## {SECTIONS[number]}", "", "| | fault | injected by |", "| --- | --- | --- |"]
        names = "<br>".join(f"`{test}`" for test in tests.get(number, ()))
        lines.append(f"| {number} | {fault} | {names} |")
    return "\n".join(lines)


def _marks(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Yields each test with each fault number that marks it, one of its cases, or the whole file."""
    of_all: set[int] = set()
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            of_all |= _numbers(statement.value)
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            numbers = set().union(*map(_numbers, function.decorator_list))
            numbers |= of_all if function.name.startswith("test_") else set()
            yield from ((function.name, number) for number in sorted(numbers))


def _numbers(expression: ast.expr) -> set[int]:
    """The fault numbers in an expression that contains marks."""
    calls = [call for call in ast.walk(expression) if isinstance(call, ast.Call)]
    return {ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "pytest.mark.fault"}


if __name__ == "__main__":
    print((markdown if sys.argv[1:] == ["--markdown"] else table)(injected()))
