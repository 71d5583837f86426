"""Finds every regular expression of the tree, and generates hostile texts from its parts.

Parses all modules for calls of `re` and evaluates each expression in its module, with `EXAMPLES` for names that exist
only at run time. Finds the methods that are called on a compiled expression by its name, in the whole tree.
"""

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]  # how `re` sees an expression; the stubs omit it
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLES: dict[str, object] = {
    "bot_user": "U1",
    "known": "a-secret|another",
    "either": "user|assistant|<@1>|<@!1>",
    "brackets": ["<|im_end|>", "[INST]"],
    "first": "<\\[",
    "label": "Q4_K_M",
    "name": "NAME",
    "names": ("<think>", "</think>"),
    "control": re.compile(r"<\|im_end\|>|<s>"),
}
"""Values for names in expressions that are no globals of their module."""
_SEARCHING = {"search", "sub", "subn", "split", "findall", "finditer"}
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
_CHARS = (codes.LITERAL, codes.RANGE)

Parsed = Sequence[tuple[Any, Any]]  # Any: an operation and its arguments in the form of `re._parser`


@dataclass(frozen=True)
class Expression:
    """A regular expression, its place in the source, and its uses."""

    place: str
    pattern: re.Pattern[Any]  # Any: str or bytes
    methods: frozenset[str]

    def __str__(self) -> str:
        return self.place

    def calls(self) -> dict[str, Callable[[str], object]]:
        """The methods that the code calls on it, as functions of a text."""
        return {method: partial(self._do, method) for method in self.methods}

    def _do(self, method: str, text: str) -> None:
        content: Any = text.encode() if isinstance(self.pattern.pattern, bytes) else text  # Any: str or bytes
        if method in _SEARCHING:
            for _ in self.pattern.finditer(content):
                pass
        else:
            getattr(self.pattern, method)(content)


def expressions(packages: Sequence[str] = ("bot", "adapters")) -> list[Expression]:
    """All expressions. Raises AssertionError for an expression with names that EXAMPLES lacks."""
    found = []
    used = _methods(packages)
    for path in _paths(packages):
        tree = ast.parse(path.read_text("utf-8"))
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        names = {id(part): node.targets[0] for node in assigned for part in ast.walk(node.value)}
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not _is_of_re(call):
                continue
            assert isinstance(call.func, ast.Attribute)
            name = _last_name(names.get(id(call)))
            methods = used.get(name, frozenset()) if call.func.attr == "compile" else frozenset({call.func.attr})
            place = f"{path.relative_to(ROOT)}:{call.lineno}"
            found.append(Expression(place, _pattern(call, path), methods or frozenset({"search", "fullmatch"})))
    return found


def pumped(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """For every repetition: a prefix that leads to it, and a piece that it matches repeatedly."""
    parsed = parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    seen = set()
    for prefix, piece in _pumps("", parsed):
        if piece and (prefix, piece) not in seen:
            seen.add((prefix, piece))
            yield prefix, piece


def nested_repeats(pattern: re.Pattern[str]) -> bool:
    """Whether an unbounded backtracking repetition contains another one directly."""
    return _nests(parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG), inside=False)


@cache
def _paths(packages: tuple[str, ...]) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def _is_of_re(call: ast.Call) -> bool:
    of_re = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "re"
    return of_re and call.func.attr in {"compile", "match", "fullmatch", *_SEARCHING}  # type: ignore[attr-defined]


def _methods(packages: Sequence[str]) -> dict[str, frozenset[str]]:
    """The methods that are called on objects of each name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in _paths(tuple(packages)):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in {"match", "fullmatch", *_SEARCHING}:
                found[_last_name(node.value)].add(node.attr)
    return {name: frozenset(methods) for name, methods in found.items()}


def _last_name(node: ast.AST | None) -> str:
    """NAME, or the NAME of self.NAME and module.NAME."""
    return getattr(node, "id", "") or getattr(node, "attr", "")


def _pattern(call: ast.Call, path: Path) -> re.Pattern[Any]:  # Any: str or bytes
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    known = {**EXAMPLES, **vars(importlib.import_module(module))}
    kept = [word for word in call.keywords if word.arg == "flags"]
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    flags = kept[0].value if kept else next(iter(call.args[1 if name == "compile" else 2 :]), None)
    if name in {"sub", "subn", "split"} and not kept:
        flags = None
    try:
        text, value = (eval(ast.unparse(node), known) if node else 0 for node in (call.args[0], flags))
    except NameError as error:
        raise AssertionError(f"{path}, line {call.lineno}: give EXAMPLES something for {error.name}") from error
    return re.compile(text, value)


def _pumps(prefix: str, parsed: Parsed) -> Iterator[tuple[str, str]]:
    for operation, value in parsed:
        for inner in _inner(operation, value):
            yield from _pumps(prefix, inner)
        if operation in _REPEATS and value[1] > 20:
            pieces = [_example([step], more) for step in value[2] for more in (0, 1)] + [_example(value[2], 1)]
            options = [_example(branch, more) for branch in _branches(value[2]) for more in (0, 1)]
            pieces += options + [one + other for one in options for other in options if one != other][:20]
            yield from ((prefix, piece) for piece in dict.fromkeys(pieces))
        prefix += _example([(operation, value)], 0)


def _inner(operation: Any, value: Any) -> list[Parsed]:  # Any: as above
    """The expressions inside an operation."""
    if operation in _REPEATS:
        return [value[2]]
    if operation is codes.SUBPATTERN:
        return [value[3]]
    if operation is codes.ATOMIC_GROUP:
        return [value]
    if operation is codes.BRANCH:
        return list(value[1])
    return [value[1]] if operation in (codes.ASSERT, codes.ASSERT_NOT) else []


def _branches(parsed: Parsed) -> list[Parsed]:
    found: list[Parsed] = [[step] for step in parsed]
    for operation, value in parsed:
        found += [branch for inner in _inner(operation, value) for branch in _branches(inner)]
        found += list(value[1]) if operation is codes.BRANCH else []
    return found


def _example(parsed: Parsed, more: int) -> str:
    """A text that the expression matches, with `more` repetitions above the minimum."""
    text = ""
    for operation, value in parsed:
        if operation is codes.LITERAL:
            text += chr(value)
        elif operation is codes.NOT_LITERAL:
            text += "a" if value != ord("a") else "b"
        elif operation is codes.ANY:
            text += "a"
        elif operation is codes.IN:
            text += _character(value)
        elif operation in _REPEATS:
            text += _example(value[2], more) * min(value[0] + more, value[1])
        elif operation is codes.BRANCH:
            text += _example(value[1][0], more)
        elif operation is codes.ASSERT or operation in (codes.SUBPATTERN, codes.ATOMIC_GROUP):
            text += _example(_inner(operation, value)[0], more)
    return text


def _character(options: Parsed) -> str:
    """A character of a class."""
    own = [
        chr(value if operation is codes.LITERAL else value[0]) for operation, value in options if operation in _CHARS
    ]
    pattern = re.compile(_class(options))
    candidates: list[str] = [*"a0 \t.-_:/,;`~[(<|@&A\n!é。", *own]
    return next(char for char in candidates if pattern.match(char))


def _class(options: Parsed) -> str:
    """The source of a character class."""
    categories = {
        codes.CATEGORY_DIGIT: r"\d",
        codes.CATEGORY_NOT_DIGIT: r"\D",
        codes.CATEGORY_SPACE: r"\s",
        codes.CATEGORY_NOT_SPACE: r"\S",
        codes.CATEGORY_WORD: r"\w",
        codes.CATEGORY_NOT_WORD: r"\W",
    }
    text = ""
    for operation, value in options:
        if operation is codes.NEGATE:
            text = "^" + text
        elif operation is codes.LITERAL:
            text += re.escape(chr(value))
        elif operation is codes.RANGE:
            text += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
        else:
            text += categories[value]
    return f"[{text}]"


def _nests(parsed: Parsed, *, inside: bool) -> bool:
    for operation, value in parsed:
        endless = operation in (codes.MAX_REPEAT, codes.MIN_REPEAT) and value[1] is codes.MAXREPEAT
        if endless and inside:
            return True
        keeps = operation in (codes.POSSESSIVE_REPEAT, codes.ATOMIC_GROUP)  # these do not backtrack
        if any(_nests(inner, inside=not keeps and (inside or endless)) for inner in _inner(operation, value)):
            return True
    return False
