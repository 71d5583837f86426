"""Tests the project's files against each other: imports are declared, dependencies pinned, data files shipped."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

NOT_IMPORTED = {
    "accelerate": "transformers places layers on devices with it",
    "gguf": "transformers reads GGUF files with it",
}
"""Dependencies that other packages import."""

OPTIONAL = {"psycopg", "xllamacpp"}
"""What is imported only if an extra installed it."""

PART_OF = {"pydantic-core": "pydantic"}
"""Distributions that another one requires in one exact version."""


@cache
def declared() -> dict[str, Requirement]:
    return {canonicalize_name(found.name): found for found in map(Requirement, PROJECT["dependencies"])}


@cache
def extras() -> dict[str, Requirement]:
    found = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@cache
def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {
        canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line[0] != "#")
    }


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imported(*packages: str) -> set[str]:
    """The distributions that the packages import, by name."""
    names: set[str] = set()
    for path in sources(*packages):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).split(".")[0])
    names -= {"bot", "adapters", "bench", "tests"} | sys.stdlib_module_names
    found = packages_distributions()
    return {PART_OF.get(name, name) for name in (canonicalize_name(found[name][0]) for name in names)}


def test_what_the_product_imports_is_declared_and_nothing_more() -> None:
    direct = imported("bot", "adapters")
    assert direct - declared().keys() == OPTIONAL
    assert declared().keys() - direct == NOT_IMPORTED.keys()


def test_what_tests_and_benchmarks_import_is_declared() -> None:
    assert imported("tests", "bench") - declared().keys() - extras().keys() == set()


def test_every_requirement_is_pinned_within_its_range() -> None:
    for name, requirement in (declared() | extras()).items():
        assert requirement.specifier.contains(pinned()[name]), f"{requirement} is pinned to {pinned()[name]}"
        assert any(clause.operator == ">=" for clause in requirement.specifier), f"{requirement} has no floor"


def test_pins_serve_every_machine() -> None:
    for name, version in pinned().items():
        assert Version(version).local is None, f"{name}=={version} is a local build"
        assert not name.startswith(("nvidia", "cuda", "triton")), f"{name} is torch's business"
    assert pinned()["torch"] == "2.13.0"


def test_files_that_are_not_python_are_shipped(tmp_path: Path) -> None:
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]["bot"]
    shipped = {path for glob in globs for path in (ROOT / "bot").glob(glob)}
    lying_there = {path for path in (ROOT / "bot").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert lying_there
    assert lying_there <= shipped


def test_every_directory_with_python_is_a_package() -> None:
    bare = {path.parent for path in sources("bot", "adapters") if not (path.parent / "__init__.py").exists()}
    assert not bare


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="inhouse")
    assert callable(command.load())


def test_python_files_say_what_they_are() -> None:
    for path in sources("bot", "adapters", "bench", "tests"):
        text = path.read_text("utf-8")
        assert not text or ast.get_docstring(ast.parse(text)), f"{path} does not say what it is"


@pytest.mark.parametrize(
    "script", [".ci/run", "tests/install_chromium.sh", "tests/install_postgresql.sh", "tests/install_systemd.sh"]
)
def test_scripts_are_sound_and_executable(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_make_says_in_one_sentence_that_python_is_too_old(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"))
    done = subprocess.run(
        ["make", "run", "PYTHON=false"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("Inhouse needs Python 3.11 or newer, and 'false' is not")


def test_run_bat_has_the_line_ends_that_windows_wants() -> None:
    batch = (ROOT / "run.bat").read_bytes().decode("ascii")
    assert batch.count("\r\n") == batch.count("\n")
