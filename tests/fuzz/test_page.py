"""Tests malformed HTTP requests: the status page answers each with 4xx, without a traceback, and continues."""

import asyncio
import logging
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders.web_service import open_page
from tests.support.connection_flood import ask, request

pytestmark = pytest.mark.fault(52)

TOKEN = "a-token-of-the-status-page"
FORM = "application/x-www-form-urlencoded"
BROKEN_FORMS = {
    "multipart without a boundary": ("multipart/form-data", b"token=x"),
    "multipart that never begins": ("multipart/form-data; boundary=b", b"token=x"),
    "multipart that ends at once": ("multipart/form-data; boundary=b", b"--b\r\n"),
    "a part without a name": ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n"),
    "a part of an unknown encoding": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="token"\r\nContent-Transfer-Encoding: odd\r\n\r\nx\r\n--b--\r\n',
    ),
    "a part of an unknown charset": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="token"\r\nContent-Type: text/plain; charset=odd\r\n\r\n'
        b"x\r\n--b--\r\n",
    ),
    "an unknown charset": (f"{FORM}; charset=odd", b"token=x"),
    "a charset that is none of text": (f"{FORM}; charset=base64", b"token=x"),
    "not of its charset": (f"{FORM}; charset=utf-8", b"token=\xff\xfe"),
    "percent codes not of its charset": (f"{FORM}; charset=ascii", b"token=%ff"),
}

ODD = st.sampled_from(
    ["", " ", "\0", "\xff", "%", "%zz", "%ff", "é", "[", "]", ":", ";", ",", '"', "\\", "=", "\t", "a" * 9000]
)
TEXT = st.lists(ODD | st.text(st.characters(max_codepoint=255), max_size=8), max_size=6).map("".join)
NAMES = st.sampled_from(
    (
        *("Host", "Authorization", "Cookie", "Accept", "Accept-Encoding", "Content-Type", "Content-Length", "Expect"),
        *("Content-Encoding", "Transfer-Encoding", "Connection", "Upgrade", "Range", "Origin", "If-None-Match"),
        *("X-Forwarded-Proto", "Sec-Fetch-Site", "Sec-Fetch-Mode"),
    )
)
VALUES = TEXT | st.sampled_from(
    (
        *("Bearer", "Bearer \xff", "inhouse=\xff", 'inhouse="\\', "inhouse=a; inhouse=b", "chunked", "gzip", "deflate"),
        *("-1", "99999999999999999999", "100-continue", "websocket", "close", "keep-alive", "localhost", "bytes=9-1"),
        *("multipart/form-data", "multipart/form-data; boundary=b", f"{FORM}; charset=odd"),
        "application/openmetrics-text; version=x",
    )
)
PATHS = st.sampled_from(
    ["/", "/?token=", "/?token=%ff&token", "/login", "/events?", "/metrics", "/readyz", "*", "//", "http://"]
)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "TRACE", "get", "\0", "G T"])
BODIES = st.binary(max_size=40) | st.sampled_from([body for _, body in BROKEN_FORMS.values()]) | st.just(b"x" * 5000)


def built(method: str, path: str, odd: str, headers: list[tuple[str, str]], body: bytes, *, honest: bool) -> bytes:
    """The bytes of a request, valid except for the given parts."""
    lines = [f"{name}: {value}" for name, value in headers]
    names = {name for name, _ in headers}
    lines += ["Host: localhost"] if "Host" not in names else []
    lines += [f"Content-Length: {len(body)}"] if honest and body and "Content-Length" not in names else []
    text = f"{method} {path}{odd} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return text.encode("latin-1") + body


REQUESTS = st.builds(
    built, METHODS, PATHS, TEXT, st.lists(st.tuples(NAMES, VALUES), max_size=5), BODIES, honest=st.booleans()
) | st.binary(max_size=200)


async def statuses(port: int, sent: bytes) -> list[int]:
    """The statuses of all responses on a connection that the client then half-closes."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            writer.write_eof()
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        finally:
            writer.transport.abort()
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    return [int(line.split()[1]) for line in lines]


def no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    wrong = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert wrong == [], [(record.name, record.getMessage(), record.exc_info) for record in wrong]


@pytest.mark.parametrize("name", BROKEN_FORMS)
async def test_a_broken_form_is_a_400(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    kind, body = BROKEN_FORMS[name]
    async with open_page(tmp_path, http_token=TOKEN) as (_, site):
        answer = await ask(int(site.url.rpartition(":")[2]), request("POST", "/login", body, Content_Type=kind))
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 ")), answer
    assert b"Traceback" not in answer
    no_traceback(caplog)


@settings(max_examples=max(5, settings().max_examples // 10))
@given(sent=st.lists(REQUESTS, min_size=10, max_size=60), token=st.sampled_from([None, TOKEN]))
async def test_a_malformed_request_costs_itself_only(
    sent: list[bytes], token: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.web.login_throttle.DELAY_S", 0.0)
    monkeypatch.setattr("bot.web.server.LINGER_S", 0.1)
    caplog.clear()
    with tempfile.TemporaryDirectory() as root:
        async with open_page(Path(root), http_token=token) as (_, site):
            port = int(site.url.rpartition(":")[2])
            for each in sent:
                if b"/events" in each:
                    continue  # a response without an end
                found = await statuses(port, each)
                assert [status for status in found if status >= 500 and status != 503] == [], each
            assert await site.get("/healthz") == (200, "alive\n")
    no_traceback(caplog)
