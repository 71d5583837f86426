"""Tests that pinned releases and minimum versions include the fixes of known vulnerabilities.

`pip-audit` needs network, so it is for users and CI; this test keeps its past findings.
"""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DECLARED = [Requirement(line) for line in PROJECT["dependencies"]]

MENDED = {
    "aiohttp": "3.13.3",  # CVE-2025-69223 and others: requests that exhaust memory
    "jinja2": "3.1.6",  # CVE-2025-27516: sandbox escape
    "torch": "2.6.0",  # CVE-2025-32434: code execution despite weights_only
    "markdown-it-py": "2.2.0",  # CVE-2023-26302: text that crashes it
    "python-dotenv": "1.2.2",
    "filelock": "3.20.3",
    # transitive dependencies
    "certifi": "2024.7.4",  # removed root certificates
    "h11": "0.16.0",  # CVE-2025-43859: chunks parsed incorrectly
    "idna": "3.7",  # CVE-2024-3651: quadratic time
    "mako": "1.2.2",  # CVE-2022-40023; a dependency of alembic
    "pygments": "2.15.1",  # CVE-2022-40896
    "requests": "2.32.4",  # CVE-2024-47081: leaks .netrc credentials
    "tqdm": "4.66.3",  # CVE-2024-34062
    "urllib3": "2.6.3",  # CVE-2026-21441 and others: decompression bombs
}
"""Distributions, and the first release without known vulnerabilities."""


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line[0] != "#")
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("requirement", DECLARED, ids=[requirement.name for requirement in DECLARED])
def test_what_is_installed_satisfies_what_is_asked_for(requirement: Requirement) -> None:
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)


@pytest.mark.parametrize(("name", "version"), MENDED.items())
def test_what_is_pinned_is_mended(name: str, version: str) -> None:
    assert Version(pinned()[name]) >= Version(version)


@pytest.mark.parametrize("requirement", DECLARED, ids=[requirement.name for requirement in DECLARED])
def test_no_floor_lets_a_known_hole_in(requirement: Requirement) -> None:
    mended = MENDED.get(requirement.name.lower())
    floors = [Version(clause.version) for clause in requirement.specifier if clause.operator == ">="]
    assert floors
    assert mended is None or min(floors) >= Version(mended)
