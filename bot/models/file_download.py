"""Fetching large files so that no byte is fetched twice.

In: file names with size and sha256, and the address they are under. Out: the files, named by their sha256, in the hub
cache's directory of blobs. Promise: a file is there whole and checked, or not at all; an interrupted download goes
on where it stopped (huggingface_hub 2.4 itself starts a file anew).
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from bot.types.errors import ModelError

WORKERS = 3


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull has come, in bytes; total 0 where that cannot be known."""

    stage: str
    done: int = 0
    total: int = 0


Progress = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of a repository. sha256 is '' for one that the hub keeps as plain text."""

    name: str
    size: int
    sha256: str

    def partial(self, blobs: Path) -> Path:
        """Where its beginning is kept until all of it is there."""
        return blobs / f"{self.sha256}.inhouse.incomplete"

    def missing(self, blobs: Path) -> int:
        """Bytes that have still to be fetched."""
        if self.sha256 and (blobs / self.sha256).is_file():
            return 0
        partial = self.partial(blobs)
        return self.size - min(self.size, partial.stat().st_size if self.sha256 and partial.is_file() else 0)


class _Meter:
    """Adds up the bytes of all workers; the progress bar that http_get thinks it has. Raises Stopped after stop()."""

    def __init__(self, done: int, total: int, progress: Progress) -> None:
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
    """Ends a worker when another one failed or the person gave up."""


def fetch_weights(files: Sequence[WeightFile], url: str, token: str | None, blobs: Path, progress: Progress) -> None:
    """Fetch what is missing of `files`, which lie under `url`, into `blobs`.

    Raises ModelError if a file arrives damaged, and whatever huggingface_hub raises.
    """
    large = [file for file in files if file.sha256]
    blobs.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for file in large)
    with FileLock(blobs / "inhouse.lock"):
        meter = _Meter(total - sum(file.missing(blobs) for file in large), total, progress)
        pool = ThreadPoolExecutor(WORKERS)
        try:
            wanted = [file for file in large if not (blobs / file.sha256).is_file()]
            jobs = [pool.submit(_fetch, file, url, token, blobs, meter) for file in wanted]
            for job in jobs:
                job.result()
        finally:
            meter.stop()
            pool.shutdown(cancel_futures=True)


def _fetch(file: WeightFile, url: str, token: str | None, blobs: Path, meter: _Meter) -> None:
    """One file: go on with its partial one, check the whole, give it its name."""
    from huggingface_hub.file_download import http_get

    partial = file.partial(blobs)
    with partial.open("ab") as target:
        if target.tell() > file.size:
            target.truncate(0)
            target.seek(0)
        if target.tell() < file.size:  # else only its name was missing
            http_get(
                f"{url}/{file.name}",
                target,
                resume_size=target.tell(),
                headers={"authorization": f"Bearer {token}"} if token else {},
                expected_size=file.size,
                tqdm_class=lambda **_: meter,  # type: ignore[arg-type]  # it asks for a class and calls it
            )
    with partial.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != file.sha256:
        partial.unlink()
        raise ModelError(f"{file.name} arrived damaged and was deleted; run the same command again.")
    partial.replace(blobs / file.sha256)
