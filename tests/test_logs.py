"""Logs: no token gets out, whoever logs it, and nothing of what people wrote."""

import io
import logging
from collections.abc import Iterator

import pytest

from bot.logs import REDACTED, setup_logs

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
    what_somebody_wrote = "a private message"
    try:
        raise ValueError(f"{len(what_somebody_wrote)} characters")
    except ValueError:
        logging.getLogger("bot.worker").exception("failed")
    assert "17 characters" in logged.getvalue()
    assert what_somebody_wrote not in logged.getvalue()


def test_a_line_that_cannot_be_rendered_is_lost_without_its_arguments(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    logging.getLogger("some.library").error("%d", TOKEN)
    assert "a log line is lost: some.library, test_logs.py:" in logged.getvalue()
    assert TOKEN not in logged.getvalue()


def test_ordinary_words_stay_as_they_are(logged: io.StringIO) -> None:
    setup_logs("info", "text", stream=logged)
    line = "hf_hub_download of bot.engine.process took 1.25 s for request 0123456789abcdef0123456789"
    logging.getLogger("bot").info(line)
    logging.getLogger("httpx").info("too much detail")
    assert line in logged.getvalue()
    assert REDACTED not in logged.getvalue()
    assert "too much" not in logged.getvalue()
