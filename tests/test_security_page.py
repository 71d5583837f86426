"""SECURITY.md claims nothing without a test, and stays one page."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def test_every_test_that_is_named_is_there() -> None:
    named = {name for found in re.findall(r"\[([a-z_0-9,\s]+)\]", PAGE) for name in re.split(r",\s*", found)}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / "tests" / f"test_{name.strip()}.py").is_file()] == []


def test_every_test_of_security_is_named() -> None:
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    ours = {name for name in files if name.startswith(("security_", "fuzz_"))} - {"security_page"}
    assert [name for name in sorted(ours) if name not in PAGE] == []


def test_it_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= 75
