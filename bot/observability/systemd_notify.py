"""Send systemd's notify datagrams: READY, STATUS, WATCHDOG, RELOADING and STOPPING.

Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; without NOTIFY_SOCKET it sends nothing. READY is sent once storage
is recovered and every platform was reached, or after READY_TIMEOUT_S, while unreached platforms are retried. WATCHDOG
is sent from the event loop, so it stops when the loop is blocked. Sending never raises and never blocks.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

READY_TIMEOUT_S = 10.0
"""How long READY waits for platforms that were not reached yet, seconds."""
TICK_S = 0.5
STATUS_S = 5.0
"""Minimum time between two updates of the status line, seconds."""


class Notifier:
    """Client of the supervisor's notify socket. Without an address it sends nothing."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """address: as in NOTIFY_SOCKET. watchdog_s: the supervisor's watchdog timeout, 0 for none."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._ready = self._stopping = False

    @classmethod
    def of_environment(cls) -> "Notifier":
        """Create a notifier from the environment. Removes the variables, so child processes do not inherit them."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        watched = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = os.environ.pop("WATCHDOG_USEC", "")
        return cls(address, int(usec) / 1e6 if watched and usec.isdecimal() else 0.0)

    async def keep_updated(self, status: Callable[[], str], reached: Callable[[], bool]) -> None:
        """Send READY, STATUS and WATCHDOG until cancelled.

        status: the text to send; reached: whether every platform was reached. Returns at once without an address.
        """
        began = time.monotonic()
        sent, sent_at, watchdog_at = "", 0.0, 0.0
        while self._address:
            now = time.monotonic()
            text = f"stopping; {status()}" if self._stopping else status()
            if not self._ready and (reached() or now - began >= READY_TIMEOUT_S):
                self._ready = True
                self._send(f"READY=1\nSTATUS={text}")
                sent, sent_at = text, now
            elif text != sent and now - sent_at >= STATUS_S:
                self._send(f"STATUS={text}")
                sent, sent_at = text, now
            if self._watchdog_s and now - watchdog_at >= self._watchdog_s / 4:
                self._send("WATCHDOG=1")
                watchdog_at = now
            await asyncio.sleep(min(TICK_S, self._watchdog_s / 4) if self._watchdog_s else TICK_S)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Send RELOADING before the block and READY after it, also if it raises."""
        if self._ready and not self._stopping:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if self._ready and not self._stopping:
                self._send("READY=1")

    def stopping(self, seconds: float) -> None:
        """Send STOPPING and extend the unit's stop timeout to `seconds` plus READY_TIMEOUT_S."""
        self._stopping = self._ready = True  # READY must not be sent any more
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int((seconds + READY_TIMEOUT_S) * 1e6)}")

    def _send(self, message: str) -> None:
        """Send one datagram; ignores errors."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(message.encode(), self._address)
