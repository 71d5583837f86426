"""An HTTP CONNECT proxy that leads every host to one port of this machine.

For tests of a whole process: with this proxy and the fake's certificate authority as SSL_CERT_FILE, the process reaches
the fake under the real host names. `hosts` records the requested host names in order.
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class ConnectProxy:
    """`async with ConnectProxy(server.port) as proxy: ...  proxy.url`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tunnels: set[asyncio.Task[None]] = set()
        self.hosts: list[str] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._tunnels)

    def cut(self) -> None:
        """Aborts all tunnels, as a network failure does."""
        for writer in self._writers:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._tunnel(reader, writer))
        self._tunnels.add(task)
        task.add_done_callback(self._tunnels.discard)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: reads the CONNECT request, connects, then copies both ways until either side ends."""
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            if method != "CONNECT":
                writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            else:
                self.hosts.append(target.rpartition(":")[0])
                far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(far)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_copy(reader, far), _copy(far_reader, writer))
        for end in (writer, far):
            if end is not None:
                self._writers.discard(end)
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies until the end of one side, then closes the other."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
