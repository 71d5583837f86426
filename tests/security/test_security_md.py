"""Tests that SECURITY.md names a test for each claim, and is short."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def file_of(name: str) -> Path:
    """The file of a test that SECURITY.md names, such as `security/output`."""
    folder, _, stem = name.rpartition("/")
    return ROOT / "tests" / folder / f"test_{stem}.py"


def test_every_test_that_is_named_is_there() -> None:
    named = {name for found in re.findall(r"\[([a-z_0-9/,\s]+)\]", PAGE) for name in re.split(r",\s*", found)}
    assert len(named) > 20
    assert [name for name in sorted(named) if not file_of(name.strip()).is_file()] == []


def test_every_test_of_security_is_named() -> None:
    folders = ("security", "fuzz")
    files = [(folder, path.stem) for folder in folders for path in (ROOT / "tests" / folder).glob("test_*.py")]
    ours = {f"{folder}/{stem.removeprefix('test_')}" for folder, stem in files} - {"security/security_md"}
    assert [name for name in sorted(ours) if name not in PAGE] == []


def test_it_is_short() -> None:
    assert len(PAGE.splitlines()) <= 100
