"""Download weight files into the hub cache's blob directory, resuming interrupted downloads.

A blob is named by its sha256 and gets that name only when it is complete and its checksum matches. huggingface_hub 2.4
itself restarts an interrupted file from the beginning.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import quote

from filelock import FileLock

from bot.types.errors import ModelError

WORKERS = 3
UNFINISHED = ".inhouse.incomplete"
"""Ending of the names of incomplete blobs."""
LOCK = "inhouse.lock"


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Progress of a pull: bytes while fetching, else steps. total is 0 where it is unknown."""

    stage: str
    done: int = 0
    total: int = 0


OnProgress = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of a repository. sha256 is '' for a file that is not in the hub's LFS storage."""

    name: str
    size: int
    sha256: str

    def partial(self, blobs: Path) -> Path:
        """The path of the incomplete download."""
        return blobs / f"{self.sha256}{UNFINISHED}"

    def missing(self, blobs: Path) -> int:
        """Bytes that are still to be downloaded."""
        if self.sha256 and (blobs / self.sha256).is_file():
            return 0
        partial = self.partial(blobs)
        return self.size - min(self.size, partial.stat().st_size if self.sha256 and partial.is_file() else 0)


class _Meter:
    """Sums the bytes of all workers behind the tqdm interface of http_get. `update` raises Stopped after stop()."""

    def __init__(self, done: int, total: int, progress: OnProgress) -> None:
        self._done, self._total, self._progress = done, total, progress
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def update(self, amount: float) -> None:
        if self._stopped:
            raise Stopped
        with self._lock:
            self._done += int(amount)
            self._progress(PullProgress("fetching", min(self._done, self._total), self._total))

    def __enter__(self) -> "_Meter":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Stopped(Exception):
    """Ends a worker after another one failed or the download was interrupted."""


def fetch_weights(files: Sequence[WeightFile], url: str, token: str | None, blobs: Path, progress: OnProgress) -> None:
    """Download the missing parts of `files` from below `url` into `blobs`.

    Raises ModelError if a checksum does not match, and the exceptions of huggingface_hub.
    """
    large = [file for file in files if file.sha256]
    blobs.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for file in large)
    with FileLock(blobs / LOCK):
        meter = _Meter(total - sum(file.missing(blobs) for file in large), total, progress)
        wanted = [file for file in large if not (blobs / file.sha256).is_file()]
        try:
            _at_once(wanted, lambda file: _fetch(file, url, token, blobs, meter), meter.stop)
        finally:
            meter.stop()


def _at_once(files: Sequence[WeightFile], fetch: Callable[[WeightFile], None], stop: Callable[[], None]) -> None:
    """Fetch files in WORKERS threads. The first error stops the others and is raised.

    Ctrl-C is raised at once: a thread that waits for a server that does not send ends with the process.
    """
    waiting, ended = SimpleQueue[WeightFile](), SimpleQueue[BaseException | None]()
    for file in files:
        waiting.put(file)

    def work() -> None:
        with suppress(Empty):
            while True:
                file = waiting.get_nowait()
                try:
                    fetch(file)
                except BaseException as error:  # raised by the caller
                    ended.put(error)
                    return
                ended.put(None)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(WORKERS, len(files)))]
    for worker in workers:
        worker.start()
    for _ in files:
        if (error := ended.get()) is not None:
            stop()
            while not waiting.empty():
                with suppress(Empty):
                    waiting.get_nowait()
            for worker in workers:
                worker.join()
            raise error


def _fetch(file: WeightFile, url: str, token: str | None, blobs: Path, meter: _Meter) -> None:
    """Resume or start one file, verify its checksum, and rename it to its sha256."""
    from huggingface_hub.file_download import http_get

    partial = file.partial(blobs)
    with partial.open("ab") as target:
        if target.tell() > file.size:
            target.truncate(0)
            target.seek(0)
        if target.tell() < file.size:  # else the file is complete and was only not renamed
            http_get(
                f"{url}/{quote(file.name)}",
                target,
                resume_size=target.tell(),
                headers={"authorization": f"Bearer {token}"} if token else {},
                expected_size=file.size,
                tqdm_class=lambda **_: meter,  # type: ignore[arg-type]  # typed as a class, but only called
            )
    with partial.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != file.sha256:
        partial.unlink()
        raise ModelError(f"{file.name} arrived damaged and was deleted; run the same command again.")
    partial.replace(blobs / file.sha256)
