"""Tests `inhouse` as a process with the real SmolLM2, as a new user sees it."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte
import pytest

ROOT = Path(__file__).parents[2]
CAPITAL = "What is the capital of France?"
PATIENCE_S = 90


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path, tmp_path: Path) -> None:
    """Uses the model from its usual place and a state directory of the test's own."""
    monkeypatch.setenv("INHOUSE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


def inhouse(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot.cli", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S)


def test_once_prints_the_answer_alone() -> None:
    done = inhouse("chat", "--once", CAPITAL, "--temperature", "0")
    assert "Paris" in done.stdout
    assert done.stdout.count("\n") == 1
    assert (done.returncode, done.stderr) == (0, "")


def test_it_ends_when_its_reader_has_a_line_and_leaves() -> None:
    words = ("chat", "--temperature", "0", "--max-tokens", "8000", "--once", "Write a list of 400 animals, one a line.")
    command = [sys.executable, "-m", "bot.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip()
            process.stdout.close()
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_each_line_of_a_pipe_is_a_question_in_one_conversation(tmp_path: Path) -> None:
    too_long = "word " * 20_000
    questions = f"{CAPITAL}\n\nAnd of Italy?\n{too_long}\n"
    done = inhouse("chat", "--temperature", "0", "--max-tokens", "40", stdin=questions)
    assert done.stdout.index("Paris") < done.stdout.index("Rome")
    assert not list(tmp_path.rglob("*.db")), "nothing is left behind"
    assert done.returncode == 1, "one question had no answer"
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [("run",), ("chat", "--temperature", "9"), ("chat", "--once", "x", "--model", "gpt-17")]
)
def test_what_a_restart_cannot_cure_is_78(words: tuple[str, ...]) -> None:
    done = inhouse(*words)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("inhouse: ")
    assert done.stderr.count("\n") == 1


class Window:
    """A terminal that runs `inhouse chat`."""

    def __init__(self, process: int, terminal: int) -> None:
        self._process, self._terminal = process, terminal
        self._screen = pyte.HistoryScreen(100, 30, history=1000)
        self._stream = pyte.ByteStream(self._screen)

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def shows(self, *words: str) -> str:
        """Waits until all these words are on the screen."""
        return self._read(lambda text: all(word in text for word in words), f"{words}")

    def writes(self, words: int, after: str) -> None:
        """Waits until the text after `after` has this many words."""
        self._read(lambda text: len(text.partition(after)[2].split()) >= words, f"{words} words after {after!r}")

    def ends(self) -> int:
        """Waits for the end; the exit status."""
        with suppress(OSError):  # Linux signals the end of a pty's other side with an OSError
            self._read(lambda text: False, "the end")
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])

    def kill(self) -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
        os.close(self._terminal)

    def _read(self, enough: Callable[[str], bool], what: str) -> str:
        until = time.monotonic() + PATIENCE_S
        os.set_blocking(self._terminal, False)
        while not enough(text := "\n".join(self._screen.display)):
            assert time.monotonic() < until, f"waited in vain for {what}:\n{text}"
            try:
                read = os.read(self._terminal, 65536)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            self._stream.feed(read)
        return text


@contextmanager
def window(*words: str) -> Iterator[Window]:
    command = [sys.executable, "-m", "bot.cli", "chat", *words]
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, command)
    opened = Window(process, terminal)
    try:
        yield opened
    finally:
        opened.kill()


def test_a_person_talks_stops_an_answer_leaves_and_finds_the_conversation_again(tmp_path: Path) -> None:
    with window("--temperature", "0", "--max-tokens", "2000") as first:
        first.shows("/help shows the commands", "smollm2 on ")
        first.press(f"{CAPITAL}\r")
        first.shows("Paris", "Generated", "tokens/s), first after")
        with window() as second:
            second.shows("this one will not be remembered")
            second.press("exit\r")
            assert second.ends() == 0
        first.press("Write a very long story about a river.\r")
        first.writes(10, after="about a river.")
        first.press("\x03")
        first.shows("stopped")
        first.press("\x04")
        assert first.ends() == 0
    history = tmp_path / "state" / "chat" / "history"
    assert CAPITAL in history.read_text()
    with window() as later:
        later.shows("> ")
        later.press("/why\r")
        later.shows(CAPITAL)
        later.press("/forget\r")
        later.shows("/forget", "eleted")
        later.press("quit\r")
        assert later.ends() == 0
    assert CAPITAL not in history.read_text()


PLATFORM = """
import asyncio, psutil, sys, time
from bot.platforms.adapter import Limits
from bot.cli.run import run_platforms
from bot.config.settings import load_settings
from bot.types.messages import ConversationKey, IncomingMessage, Person

class Platform:
    platform, limits = "scripted", Limits(max_chars=100_000, min_interval_s=0.05)
    def __init__(self): self.closed = asyncio.Event()
    async def run(self, core, turns=None):
        key = ConversationKey("scripted", "", "room")
        question = IncomingMessage(key, "1", Person("p", "Pat"), sys.argv[1], time.time(), addressed=True)
        await core.handle(question)
        await self.closed.wait()
    async def post(self, reply): await self.update(reply); return "posted"
    async def update(self, reply):
        if reply.committed: print("final" if reply.final else "partial", repr(reply.committed), flush=True)
    async def find_posted(self, reply): return None
    async def status(self, key, text): pass
    async def close(self):
        print("resident", psutil.Process().memory_info().rss >> 20, flush=True)
        print("closed", flush=True)
        self.closed.set()

run_platforms(load_settings(temperature=0, max_tokens=int(sys.argv[2])), [Platform()])
"""


@contextmanager
def platform(question: str, max_tokens: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PLATFORM, question, str(max_tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if word in line)


def test_the_first_signal_lets_the_answer_end() -> None:
    with platform(CAPITAL, 60) as process:
        line_with(process, "partial")
        process.send_signal(signal.SIGTERM)
        assert "Paris" in line_with(process, "final")
        assert int(line_with(process, "resident").split()[1]) < 150, "the service's own process stays small"
        line_with(process, "closed")
        assert process.wait(PATIENCE_S) == 0


def test_the_second_signal_ends_at_once() -> None:
    with platform("Write a very long story about a river.", 4000) as process:
        line_with(process, "partial")
        process.send_signal(signal.SIGTERM)
        line_with(process, "partial")
        process.send_signal(signal.SIGINT)
        line_with(process, "closed")
        assert process.wait(PATIENCE_S) == 0
