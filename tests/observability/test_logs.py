"""Tests logs: they contain no token, whichever logger writes it, and no text of users."""

import io
import logging
from collections.abc import Iterator

import pytest

from bot.observability.logs import REDACTED, Throttle, setup_logs

TOKEN = "hf_" + "AbCdEfGh12345678" * 2


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    yield io.StringIO()
    root.handlers, root.level = before


@pytest.mark.fault(43)
@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        'our own "secret" token',
        "MTA1NjQ3ODk4NzY1NDMyMTA5OA.GxYzAb.abcdefghijklmnopqrstuvwxyz0123456789AB",
        "xoxb-1234567890-1234567890123-AbCdEfGhIjKlMnOp",
        "xoxe.xoxp-1-Mi0yLTEyMzQ1Njc4OTA",
        "xapp-1-A0123456789-1234567890123-abcdef0123456789",
    ],
)
def test_a_token_inside_a_librarys_exception_is_redacted(logged: io.StringIO, form: str, token: str) -> None:
    setup_logs("info", form, [TOKEN, 'our own "secret" token'], logged)
    library = logging.getLogger("some.library")
    try:
        raise ConnectionError(f"401 for url with token={token}")
    except ConnectionError:
        library.exception("request failed with header %s", {"Authorization": f"Bearer {token}"}, extra={"auth": token})
    assert "ConnectionError" in logged.getvalue()
    assert logged.getvalue().count(REDACTED) >= 3
    for piece in (token, token[4:-4], "secret"):
        assert piece not in logged.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_tracebacks_do_not_show_local_variables(logged: io.StringIO, form: str) -> None:
    setup_logs("info", form, stream=logged)
    private_text = "a private message"
    try:
        raise ValueError(f"{len(private_text)} characters")
    except ValueError:
        logging.getLogger("bot.generation.worker").exception("failed")
    assert "17 characters" in logged.getvalue()
    assert private_text not in logged.getvalue()


def test_a_line_that_cannot_be_rendered_is_lost_without_its_arguments(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    logging.getLogger("some.library").error("%d", TOKEN)
    assert "a log line is lost: some.library, test_logs.py:" in logged.getvalue()
    assert TOKEN not in logged.getvalue()


def test_ordinary_words_stay_as_they_are(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    line = "hf_hub_download of bot.engine.client.process took 1.25 s for request 0123456789abcdef0123456789"
    logging.getLogger("bot").info(line)
    logging.getLogger("httpx").info("too much detail")
    assert line in logged.getvalue()
    assert REDACTED not in logged.getvalue()
    assert "too much" not in logged.getvalue()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The throttle's clock: a list with the current time."""
    now = [1000.0]
    monkeypatch.setattr("bot.observability.logs.time.monotonic", lambda: now[0])
    return now


@pytest.mark.fault(51)
def test_a_line_that_comes_again_and_again_is_counted(logged: io.StringIO, clock: list[float]) -> None:
    setup_logs("info", "text", [TOKEN], logged)
    library = logging.getLogger("asyncio")
    for _ in range(100_000):
        library.error("out of system resource, says %s", TOKEN)
    assert len(logged.getvalue().splitlines()) == Throttle.BURST
    clock[0] += Throttle.WINDOW_S
    library.error("something else")
    lines = logged.getvalue().splitlines()
    assert len(lines) == Throttle.BURST + 2
    assert f"{100_000 - Throttle.BURST} more lines like this one within 10 s were left out: out of system" in lines[-2]
    assert "something else" in lines[-1]
    library.error("out of system resource, says %s", TOKEN)
    assert len(logged.getvalue().splitlines()) == Throttle.BURST + 3, "a new window lets it through again"
    assert TOKEN not in logged.getvalue()


@pytest.mark.fault(51)
def test_the_end_says_what_was_left_out(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    for _ in range(Throttle.BURST + 7):
        logging.getLogger("bot").warning("again")
    setup_logs("info", "text", stream=logged)
    assert "7 more lines like this one" in logged.getvalue()


def fail(what: str) -> None:
    raise OSError(what)


@pytest.mark.fault(51)
def test_lines_that_differ_are_all_written(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    log = logging.getLogger("bot")
    for number in range(300):
        log.error("A reply cannot be shown: %s", number)
        log.error("same", extra={"reply_id": number})
        logging.getLogger(f"bot.{number}").error("another part")
        try:
            fail(f"cause {number}")
        except OSError:
            log.exception("failed")
    for message in ("cannot be shown", "same", "another part", "Traceback"):
        assert logged.getvalue().count(message) == 300, message
    assert "left out" not in logged.getvalue()


@pytest.mark.fault(51)
def test_the_same_error_from_two_places_is_two_lines(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    for _ in range(Throttle.BURST * 2):
        for place in (lambda: fail("x"), lambda: int("x")):
            try:
                place()
            except (OSError, ValueError):
                logging.getLogger("bot").exception("failed")
    assert logged.getvalue().count("Traceback") == 2 * Throttle.BURST


@pytest.mark.fault(51)
def test_lines_are_remembered_in_bounded_memory(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    for _ in range(Throttle.BURST + 1):
        logging.getLogger("bot").error("the same")
    assert logged.getvalue().count("the same") == Throttle.BURST
    for number in range(Throttle.MOST * 3):
        logging.getLogger("bot").error("%s", number)
    before = logged.getvalue().count("the same")
    logging.getLogger("bot").error("the same")
    assert logged.getvalue().count("the same") == before + 1, "the oldest lines are forgotten"
