"""Installs the peers' virtual environments under the user's cache directory, once, with pip from the package registry.

An environment with the mark file is complete.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_path

from bench.peering.catalog import Recipe

INSTALL_S = 2400.0
"""Seconds; building llama.cpp from source takes a quarter of an hour on two cores."""
MARK = "installed.json"
NEEDED = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for line in requires(sys.argv[1]) or ():
    need = Requirement(line)
    if need.name not in sys.argv[2:] and (need.marker is None or need.marker.evaluate({"extra": ""})):
        print(line)
"""
"""Prints the dependencies of an installed package, without those that are left out."""


class CannotInstall(Exception):
    """The installation failed; the message is one line."""


def root() -> Path:
    """The directory of all environments."""
    return user_cache_path("inhouse", appauthor=False) / "peers"


def ensure(recipe: Recipe) -> Path:
    """The environment's Python; installs the environment if missing. Raises CannotInstall."""
    folder = root() / recipe.name
    python = folder / "bin" / "python"
    wanted = [*recipe.packages, *filter(None, [recipe.bare])]
    mark = folder / MARK
    if mark.exists() and json.loads(mark.read_text("utf-8")) == wanted:
        return python
    print(f"Installing {', '.join(wanted)} into {folder}. This can take a quarter of an hour.", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    if recipe.bare:
        run([*pip, "--no-deps", recipe.bare])
        needed = run([str(python), "-c", NEEDED, recipe.bare.split("==")[0], *recipe.left_out])
        run([*pip, *recipe.packages, *needed.splitlines()])
    else:
        run([*pip, *recipe.packages], recipe.building)
    if recipe.alias:
        _alias(folder, recipe.bare, recipe.alias)
    mark.write_text(json.dumps(wanted), "utf-8")
    return python


def _alias(folder: Path, pinned: str, alias: str) -> None:
    """Copies a package's metadata under a second name."""
    package, version = pinned.split("==")
    (known,) = folder.glob(f"lib/python*/site-packages/{package.replace('-', '_')}-{version}.dist-info")
    shutil.copytree(known, known.with_name(f"{alias}-{version}.dist-info"), dirs_exist_ok=True)


def run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Runs a command; its output. Raises CannotInstall."""
    settings = os.environ | dict(environment or {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, env=settings, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise CannotInstall(f"cannot be installed: {problem}"[:300]) from None
    if done.returncode:
        lines = done.stderr.splitlines() or [str(done.returncode)]
        why = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise CannotInstall(f"cannot be installed: {why}"[:300])
    return done.stdout
