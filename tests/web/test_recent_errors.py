"""Tests the last errors: what happened and what to do, grouped, counted, bounded, and redacted like the log."""

import logging
import threading
from collections.abc import Iterator

import pytest

from bot.web.recent_errors import KEPT, LONGEST, RecentErrors, split_message

SECRET = "a-token-of-the-status-page"
WORKER = logging.getLogger("bot.generation.worker")


@pytest.fixture
def errors() -> Iterator[RecentErrors]:
    """A Troubles that receives the log."""
    received = RecentErrors([SECRET])
    received.open()
    yield received
    received.close()


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("The engine died; it is started again", "The engine died", "It is started again."),
        ("The port is in use. Set another; or off.", "The port is in use", "Set another; or off."),
        ("It is gone.", "It is gone", ""),
        ("v1.2 of a.b: no", "v1.2 of a.b: no", ""),
        ("two\n  lines; and   spaces", "two lines", "And spaces."),
        ("", "", ""),
    ],
)
def test_a_sentence_is_told_apart(text: str, what: str, fix: str) -> None:
    assert split_message(text) == (what, fix)


def test_a_long_one_is_cut() -> None:
    what, _ = split_message("x" * 1000)
    assert len(what) == LONGEST


def test_warnings_and_errors_of_ours_are_kept_the_newest_first(errors: RecentErrors) -> None:
    WORKER.warning("%s is not here; `inhouse pull %s` fetches it.", "phi-4", "phi-4")
    logging.getLogger("adapters.discord.gateway.gateway").error("It stops")
    WORKER.info("All is well")
    logging.getLogger("somebody.else").error("Not ours")
    stops, missing = errors.last()
    assert (stops.where, stops.error, stops.what, stops.fix) == (
        "discord",
        True,
        "It stops",
        "The log says more about this moment.",
    )
    assert (missing.where, missing.error, missing.what, missing.fix) == (
        "worker",
        False,
        "phi-4 is not here",
        "`inhouse pull phi-4` fetches it.",
    )


def test_the_same_again_is_counted_and_newest(errors: RecentErrors) -> None:
    for seconds in (1, 2, 3):
        WORKER.warning("It ended; again in %d s", seconds)
        WORKER.warning("Another thing")
    assert [(error.what, error.times) for error in errors.last()] == [("Another thing", 3), ("It ended", 3)]
    assert errors.last()[1].fix == "Again in 3 s."


def test_only_the_last_ones_are_kept(errors: RecentErrors) -> None:
    for number in range(KEPT + 3):
        WORKER.warning("Number %d", number)
    assert [error.what for error in errors.last()] == [f"Number {number}" for number in range(KEPT + 2, 2, -1)]


def test_no_token_is_shown_and_of_an_exception_only_its_kind(errors: RecentErrors) -> None:
    WORKER.warning("Refused: %s", SECRET)
    try:
        raise ValueError("what somebody wrote")
    except ValueError:
        WORKER.exception("It failed")
    failed, refused = errors.last()
    assert refused.what == "Refused: [redacted]"
    assert (failed.what, failed.fix) == ("It failed", "ValueError; the log has its traceback.")


def test_a_wrong_log_call_breaks_nothing(errors: RecentErrors) -> None:
    errors.handle(logging.LogRecord("bot", logging.ERROR, "", 1, "%d", ("not a number",), None))
    assert errors.last() == []


def test_other_threads_are_heard_too(errors: RecentErrors) -> None:
    threads = [threading.Thread(target=WORKER.warning, args=("From a thread",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error.times for error in errors.last()] == [8]


def test_once_closed_it_hears_no_more(errors: RecentErrors) -> None:
    errors.close()
    WORKER.warning("Too late")
    assert errors.last() == []
