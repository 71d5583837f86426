"""Keeps many connections to a server open that never complete a request, and reopens those that it drops.

async with flood(port, 370):
    ...
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Half:"
PAUSE_S = 0.05
"""Delay before a client reconnects, seconds."""


@asynccontextmanager
async def flood(port: int, connections: int, sends: bytes = HALF) -> AsyncIterator[None]:
    """Holds `connections` connections to a loopback port open until the block ends; each sends only `sends`."""
    clients = [asyncio.create_task(_hold(port, sends)) for _ in range(connections)]
    try:
        yield
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _hold(port: int, sends: bytes) -> None:
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(sends)
                while await reader.read(4096):
                    pass
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


async def ask(port: int, request: bytes, within_s: float = 20.0) -> bytes:
    """Sends raw bytes on a new connection; all that the server answers until it closes."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.transport.abort()


def request(method: str = "GET", path: str = "/healthz", body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request with `Connection: close`. Write header names with _."""
    lines = {"Host": "localhost", "Connection": "close"} | {n.replace("_", "-"): v for n, v in headers.items()}
    if body:
        lines |= {"Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
