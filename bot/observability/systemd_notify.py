"""What systemd is told, by the datagrams of its notify protocol: READY, STATUS, WATCHDOG, RELOADING, STOPPING.

In: NOTIFY_SOCKET and WATCHDOG_USEC of the environment; a line about this moment, and whether all platforms were
reached. Out: datagrams, or nothing where nobody listens. It promises: READY is said once storage is recovered and every
platform was reached, or PATIENCE_S later (they are being retried then); WATCHDOG is said by the event loop, so it ends
when the loop is stuck; nothing here raises or waits.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

PATIENCE_S = 10.0
"""How long platforms may take to be reached before the service counts as ready without them."""
TICK_S = 0.5
STATUS_S = 5.0
"""The least time between two changes of the status line."""


class Notifier:
    """One connection to whoever supervises this process. Without an address it is silent."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """`address` as in NOTIFY_SOCKET; `watchdog_s`: how soon we are taken for dead, 0 for never."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._ready = self._stopping = False

    @classmethod
    def of_environment(cls) -> "Notifier":
        """The one that the environment names; it is taken out of there, since it is not for our children."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        watched = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = os.environ.pop("WATCHDOG_USEC", "")
        return cls(address, int(usec) / 1e6 if watched and usec.isdecimal() else 0.0)

    async def keep_told(self, line: Callable[[], str], arrived: Callable[[], bool]) -> None:
        """Tell, for ever, how it goes. `line`: what to say; `arrived`: whether every platform was reached."""
        began = time.monotonic()
        told, told_at, petted_at = "", 0.0, 0.0
        while self._address:
            now = time.monotonic()
            text = f"stopping; {line()}" if self._stopping else line()
            if not self._ready and (arrived() or now - began >= PATIENCE_S):
                self._ready = True
                self._say(f"READY=1\nSTATUS={text}")
                told, told_at = text, now
            elif text != told and now - told_at >= STATUS_S:
                self._say(f"STATUS={text}")
                told, told_at = text, now
            if self._watchdog_s and now - petted_at >= self._watchdog_s / 4:
                self._say("WATCHDOG=1")
                petted_at = now
            await asyncio.sleep(min(TICK_S, self._watchdog_s / 4) if self._watchdog_s else TICK_S)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Around a reload of the configuration, whether it succeeds or not."""
        if self._ready and not self._stopping:
            self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if self._ready and not self._stopping:
                self._say("READY=1")

    def stopping(self, seconds: float) -> None:
        """The end begins, and may take so many seconds, whatever the unit's timeout is."""
        self._stopping = self._ready = True  # it is no longer to be said
        self._say(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int((seconds + PATIENCE_S) * 1e6)}")

    def _say(self, message: str) -> None:
        """Send one datagram. That nobody takes it is nothing that could be helped here."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(message.encode(), self._address)
