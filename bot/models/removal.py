"""Delete a model's files from the hub's cache and from INHOUSE_CACHE_DIR.

Deletes only directories that a pull created, never a directory that the user configured as a model.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bot.config.settings import Settings
from bot.models.hub_client import Hub
from bot.models.model_spec import ModelSpec
from bot.models.pull import wheel_of
from bot.types.errors import ModelError


@dataclass(frozen=True, slots=True)
class Stored:
    """Files and directories of one model."""

    name: str
    paths: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Bytes of disk space that `delete` frees."""
        return sum(file.lstat().st_size for path in self.paths for file in _files(path))

    def delete(self) -> None:
        """Delete the paths. Raises ModelError if one cannot be deleted."""
        for path in self.paths:
            try:
                is_tree = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_tree else path.unlink(missing_ok=True)
            except OSError as error:
                raise ModelError(
                    f"{error.filename or path} cannot be deleted ({error.strerror}): check its owner."
                ) from error


def stored(spec: ModelSpec, settings: Settings, hub: Hub | None = None) -> Stored:
    """Find all files of a model on this disk, unfinished downloads included.

    `hub` defaults to the hub of the settings. Raises ModelError if the model is a directory of the user's own.
    """
    if spec.path:
        raise ModelError(f"{spec.name} is your own, in {spec.path}, which Inhouse does not delete: delete it yourself.")
    paths = list((hub or Hub(settings)).stored(spec))
    if wheel := wheel_of(spec):
        folder = wheel.folder(settings.cache_dir)
        paths += [folder.with_name(folder.name + ending) for ending in ("", ".wheel", ".unfinished")]
    return Stored(spec.name, tuple(path for path in paths if path.exists()))


def _files(path: Path) -> Iterator[Path]:
    """The regular files below a path; links are skipped, since snapshots in the hub's cache link into `blobs`."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file() and not file.is_symlink():
            yield file
