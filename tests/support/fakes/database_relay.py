"""A TCP relay in front of a PostgreSQL server's Unix socket, which loses connections and answers on request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import make_url

CHUNK = 65_536


class DatabaseRelay:
    """Relays connections to the server while it is up."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._relaying: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._losing = ""  # the commit's request or its answer
        self._deaf: set[asyncio.StreamReader] = set()  # whose next answer is lost
        self._silent, self._hangs_at = False, b""
        self.port = 0
        self.lost = asyncio.Event()
        self.hung = asyncio.Event()
        """A request came after `hang`."""

    def url(self, url: SecretStr) -> SecretStr:
        """The URL of the same database through this relay."""
        there = make_url(url.get_secret_value())
        here = there.set(host="127.0.0.1", port=self.port, query={})
        return SecretStr(here.render_as_string(hide_password=False))

    async def start(self) -> None:
        """Accepts connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Breaks all connections and refuses new ones until `start`."""
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)  # the handler of a connection that was accepted last begins
        while self._relaying:
            for writer in self._relaying.values():
                writer.transport.abort()
            await asyncio.wait(self._relaying)
        await self._server.wait_closed()

    def hang(self, at: str = "") -> None:
        """Keeps all connections and accepts new ones, and passes nothing on any more: from the next request `at`."""
        self._silent, self._hangs_at = not at, at.encode()

    def lose_commit(self, what: str) -> None:
        """Breaks the connection of the next commit, before its 'request' or its 'answer' is passed on."""
        self._losing = what
        self.lost.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._relaying[task] = writer
        task.add_done_callback(self._relaying.pop)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both, tasks = [writer], list[asyncio.Task[None]]()
        try:
            try:
                there_reader, there_writer = await asyncio.open_unix_connection(self._socket)
            except OSError:  # the server does not run
                return
            both.append(there_writer)
            tasks += [
                asyncio.create_task(self._requests(reader, there_writer, there_reader)),
                asyncio.create_task(self._answers(there_reader, writer)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in both:
                each.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.StreamReader
    ) -> None:
        while data := await reader.read(CHUNK):
            self._silent |= bool(self._hangs_at) and self._hangs_at in data
            if self._silent:
                self.hung.set()
                continue
            if self._losing and b"COMMIT" in data:
                losing, self._losing = self._losing, ""
                self.lost.set()
                if losing == "request":
                    return
                self._deaf.add(answers)
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if reader in self._deaf:
                return
            if self._silent:
                continue
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def run_relay(socket: Path) -> AsyncIterator[DatabaseRelay]:
    """Relays to the server at `socket` until the block ends."""
    relay = DatabaseRelay(socket)
    await relay.start()
    yield relay
    await relay.cut()
