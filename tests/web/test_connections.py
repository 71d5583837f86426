"""Tests the status page's connections: limits, timeouts, eviction, and lack of descriptors."""

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import psutil
import pytest

from bot.config.address import Address
from bot.observability.file_descriptors import ENOUGH, raise_soft_limit, soft_limit
from bot.web import connections
from tests.support.builders.web_service import Site, open_page
from tests.support.connection_flood import HALF, ask, flood, request

pytestmark = pytest.mark.fault(51)

ALIVE = b"HTTP/1.1 200 "


def port_of(site: Site) -> int:
    return int(site.url.rpartition(":")[2])


def sockets(site: Site, status: str) -> list[tuple[str, int]]:
    """The local addresses of the server's sockets with this status."""
    port = port_of(site)
    found = psutil.Process().net_connections("tcp")
    return [(each.laddr.ip, each.laddr.port) for each in found if each.status == status and each.laddr.port == port]


def held(site: Site) -> int:
    """The number of connections that the server holds."""
    return len(sockets(site, psutil.CONN_ESTABLISHED))


@asynccontextmanager
async def client(
    site: Site, sends: bytes = b"", source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client connection from one of this machine's addresses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(site), local_addr=(source, 0))
    try:
        writer.write(sends)
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the server close any connection at once."""
    monkeypatch.setattr(connections, "GRACE_S", 0.05)


@contextmanager
def soft_limit_of(number: int) -> Iterator[None]:
    """Limits the descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def lowest_free() -> int:
    """The number of the next descriptor."""
    found = os.dup(0)
    os.close(found)
    return found


async def test_there_are_never_more_than_so_many(tmp_path: Path, no_grace: None) -> None:
    async with open_page(tmp_path) as (setup, site), flood(port_of(site), 200):
        await setup.platform.until(lambda: held(site) == connections.LIMIT, "it is full")
        for _ in range(20):
            assert (await ask(port_of(site), request())).startswith(ALIVE)
            assert held(site) <= connections.LIMIT + 1  # one more is accepted and waits until the oldest is closed


async def test_a_full_server_says_so_once(tmp_path: Path, no_grace: None, caplog: pytest.LogCaptureFixture) -> None:
    async with open_page(tmp_path) as (_, site), flood(port_of(site), 100):
        for _ in range(10):
            assert (await ask(port_of(site), request())).startswith(ALIVE)
    said = [record.getMessage() for record in caplog.records if record.name == "bot.web.connections"]
    assert said == ["The status page has 64 connections, the maximum; it closes the oldest"]


@pytest.mark.parametrize("trickles", [False, True])
async def test_headers_that_do_not_come_end_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trickles: bool
) -> None:
    monkeypatch.setattr("bot.web.server.HEADERS_S", 0.3)
    async with open_page(tmp_path) as (_, site), client(site, HALF) as (reader, writer):
        reading = asyncio.create_task(reader.read())
        async with asyncio.timeout(20):
            while not reading.done():
                if trickles:
                    writer.write(b"x")
                await asyncio.sleep(0.05)
        assert await reading == b""


async def test_an_idle_connection_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.web.server.HEADERS_S", 0.3)
    asks = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with open_page(tmp_path) as (_, site), client(site, asks) as (reader, _), asyncio.timeout(20):
        assert (await reader.read()).endswith(b"alive\n")


async def test_a_body_that_does_not_come_is_a_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.web.auth.BODY_S", 0.2)
    form = {"Content_Type": "application/x-www-form-urlencoded", "Content_Length": "100"}
    async with open_page(tmp_path, http_token="a-token-of-the-status-page") as (_, site):
        answer = await ask(port_of(site), request("POST", "/login", b"", **form) + b"token=")
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_clients_that_do_not_read_make_room_for_one_that_does(tmp_path: Path, no_grace: None) -> None:
    greedy = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    async with open_page(tmp_path) as (_, site):
        clients = [socket.create_connection(("127.0.0.1", port_of(site))) for _ in range(connections.LIMIT)]
        try:
            for each in clients:
                each.setblocking(False)
                each.send(greedy)
            await asyncio.sleep(0.5)  # time to fill all buffers
            for _ in range(5):
                assert (await ask(port_of(site), request())).startswith(ALIVE)
        finally:
            for each in clients:
                each.close()


async def test_a_flood_from_one_network_costs_the_others_nothing(tmp_path: Path, no_grace: None) -> None:
    asks = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with open_page(tmp_path) as (_, site), client(site, asks, "127.0.0.2") as (reader, writer):
        assert (await reader.readline()).startswith(ALIVE)
        async with flood(port_of(site), 150):
            await asyncio.sleep(0.5)
            writer.write(asks)
            async with asyncio.timeout(20):
                rest = await reader.readuntil(b"alive\n") + await reader.readuntil(b"alive\n")
            assert ALIVE in rest


async def test_open_pages_stay_open_in_a_flood(tmp_path: Path, no_grace: None) -> None:
    async with open_page(tmp_path) as (_, site), site.events() as events:
        await events.next()
        async with flood(port_of(site), 150):
            for _ in range(30):
                await events.next()


async def test_descriptors_are_left_to_the_rest_of_the_process(
    tmp_path: Path, no_grace: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_page(tmp_path) as (setup, site):
        async with flood(port_of(site), 10):
            await setup.platform.until(lambda: held(site) == 10, "ten are there")
            with soft_limit_of(lowest_free() * 4 // 3):  # only the reserve is left
                async with client(site, request()) as (reader, _):
                    await asyncio.wait_for(reader.read(), 20)
                assert held(site) <= 10
        assert (await ask(port_of(site), request())).startswith(ALIVE)
    said = [record.getMessage() for record in caplog.records if record.name == "bot.web.connections"]
    assert len(said) == 1
    assert "Few file descriptors are left" in said[0]


async def test_where_no_descriptor_is_left_it_tries_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "soft_limit", lambda: float("inf"))  # as if others used the reserve
    monkeypatch.setattr(connections, "RETRY_S", 0.2)
    async with open_page(tmp_path) as (_, site):
        clients = [socket.socket() for _ in range(50)]
        loop = asyncio.get_running_loop()
        try:
            with soft_limit_of(lowest_free()):
                for each in clients:
                    each.setblocking(False)
                    await loop.sock_connect(each, ("127.0.0.1", port_of(site)))
                await asyncio.sleep(1)
            await loop.sock_sendall(clients[-1], request())
            async with asyncio.timeout(20):
                assert (await loop.sock_recv(clients[-1], 1000)).startswith(ALIVE)
        finally:
            for each in clients:
                each.close()
    wrong = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.name, record.getMessage()) for record in wrong] == [
        ("bot.web.connections", "The status page cannot accept a connection (Too many open files); retrying")
    ]


async def test_a_name_with_two_addresses_is_served_on_both(tmp_path: Path) -> None:
    async with open_page(tmp_path, http="localhost:0") as (_, site):
        listening = sockets(site, psutil.CONN_LISTEN)
        assert listening
        for host, port in listening:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request())
            assert (await reader.read()).startswith(ALIVE)
            writer.transport.abort()


@pytest.mark.parametrize("missing", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
async def test_an_address_that_this_machine_lacks_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    create = socket.create_server
    tried: list[int] = []

    def lacking(place: tuple[str, int], **how: Any) -> socket.socket:  # Any: the options of create_server
        tried.append(1)
        if len(tried) == 1:
            raise OSError(missing, os.strerror(missing))
        return create(("127.0.0.1", 0), family=socket.AF_INET, backlog=how["backlog"])

    monkeypatch.setattr("bot.web.connections.socket.create_server", lacking)
    twice = [(socket.AF_INET, 1, 6, "", (host, 0)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", AsyncMock(return_value=twice))
    found = connections.Connections(asyncio.Protocol)
    try:
        assert await found.listen(Address("localhost", 0)) > 0
    finally:
        await found.close()


async def test_a_name_that_cannot_be_one_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="not a host name"):
        await connections.Connections(asyncio.Protocol).listen(Address("a..b", 80))


def test_the_soft_limit_is_raised_towards_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with soft_limit_of(256):
        assert soft_limit() == 256
        raise_soft_limit()
        assert soft_limit() == (min(ENOUGH, hard) if hard != resource.RLIM_INFINITY else ENOUGH)
        raised = soft_limit()
        raise_soft_limit()
        assert soft_limit() == raised
