"""Refuses private names of the product, of libraries and of other test code in tests and benchmarks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATCHES = {"setattr", "delattr", "getattr", "hasattr", "patch", "object"}
"""Functions that take a name as a string."""
PRIVATE = re.compile(r"_[a-z]\w*|_[A-Z]\w*")
FOREIGN_PRIVATE = {
    "_connection": "discord.py makes no message without it",
    "_attn_implementation": "transformers says only there which attention a model uses",
    "_exit": "os._exit is public in spite of its name",
    "_constants": "the only description of a parsed regular expression in `re`",
    "_parser": "the only parser of regular expressions in `re`",
}
"""Private names of other libraries that tests use, each with the reason."""


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each use of a private name of another object, class or module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.stmt):
            yield from ((node.lineno, name) for name in _used(node) if is_private(name))


def is_private(name: str) -> bool:
    """Whether a name is private and not one of FOREIGN_PRIVATE."""
    return PRIVATE.fullmatch(name) is not None and name not in FOREIGN_PRIVATE


def _used(node: ast.expr | ast.stmt) -> list[str]:
    if isinstance(node, ast.Attribute):
        return [] if _is_own(node.value) else [node.attr]
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call) and _name_of(node.func) in PATCHES:
        strings = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
        return [part for each in strings if isinstance(each, str) for part in each.split(".")]
    return []


def _is_own(value: ast.expr) -> bool:
    """Whether an expression is `self`, `cls` or `super()`."""
    return (isinstance(value, ast.Name) and value.id in ("self", "cls")) or (
        isinstance(value, ast.Call) and _name_of(value.func) == "super"
    )


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_tests_use_no_private_names() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for folder in ("tests", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in private_names(ast.parse(path.read_text("utf-8")))
    ]
    assert not found, "\n".join(["use a public way, or test another thing:", *found])


@pytest.mark.parametrize(
    "line",
    [
        "service._worker.loader",
        "from bot.models.loading import _quantization",
        "monkeypatch.setattr(encoder, '_encode', encode)",
        "patch('bot.doctor.network_checks._page', none)",
        "patch.object(Writer, '_run')",
    ],
)
def test_private_names_are_found_however_they_are_used(line: str) -> None:
    assert len(list(private_names(ast.parse(line)))) == 1


@pytest.mark.parametrize("line", ["self._a, cls._b, super()._c", "a.__class__", "for _ in range(3): f('_x')"])
def test_own_names_are_not_private(line: str) -> None:
    assert list(private_names(ast.parse(line))) == []
