"""Read the memory of NVIDIA GPUs from nvidia-smi, which comes with the driver; this process never imports torch."""

import asyncio
import contextlib
import time

TIMEOUT_S = 5.0
KEPT_S = 5.0
"""A reading is reused for this time."""
COMMAND = ("nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits")


class GpuMemory:
    """Memory of all GPUs of this machine together."""

    def __init__(self) -> None:
        self._read = (0, 0)
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def mb(self) -> tuple[int, int]:
        """Return (used, total) MB, by all processes; (0, 0) without an NVIDIA GPU or its driver."""
        async with self._lock:
            if self._read_at is None or time.monotonic() - self._read_at > KEPT_S:
                self._read = await _query()
                self._read_at = time.monotonic()
        return self._read


async def _query() -> tuple[int, int]:
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:  # there is no driver
        return 0, 0
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError:  # a broken driver
        return 0, 0
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _sums(printed.decode("utf-8", "replace"))


def _sums(printed: str) -> tuple[int, int]:
    """Sum the lines 'used, total'; lines such as '[N/A], [N/A]' count nothing."""
    used = total = 0
    for line in printed.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 2 and all(field.isdecimal() for field in fields):
            used, total = used + int(fields[0]), total + int(fields[1])
    return used, total
