"""Renders chat templates in a child process: `python -P template_process.py SECONDS MEMORY_MB`.

Reads one JSON request per line from stdin and writes one JSON answer per line to stdout;
bot.engine.text.template_renderer is the client. A template that takes longer than SECONDS ends the process, even while
it holds the GIL. Memory is limited where the system supports it. The process ends when its stdin closes, and so with
its parent. It imports jinja2 and none of our modules: it starts in 0.1 s and takes 25 MB. Templates run in the same
environment as in transformers' `apply_chat_template`.
"""

import faulthandler
import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LONGEST_REASON = 200
"""Most characters of an exception's text in an answer."""


class SandboxRenderer:
    """Compiles and renders templates in one sandboxed environment, set up like transformers' own."""

    def __init__(self) -> None:
        self._asked_time = False
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {
            "raise_exception": _raise,
            "strftime_now": self._now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        self._compiled = lru_cache(maxsize=16)(environment.from_string)

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Render `template` with `variables` to at most `limit` characters.

        Returns {text, timed}, {refused: why} or {exceeded: "output" or "memory"}. timed: the template read the time, so
        it may render another text later.
        """
        self._asked_time = False
        try:
            template: Template = self._compiled(request["template"])
            parts, left = [], request["limit"]
            for part in template.generate(request["variables"]):
                left -= len(part)
                if left < 0:
                    return {"exceeded": "output"}
                parts.append(part)
            return {"text": "".join(parts), "timed": self._asked_time}
        except MemoryError:
            return {"exceeded": "memory"}
        except Exception as error:  # a template may raise anything
            reason = " ".join(str(error)[:LONGEST_REASON].split()).encode("utf-8", "replace").decode()
            return {"refused": reason or type(error).__name__}

    def _now(self, format: str) -> str:  # noqa: A002 -- transformers' name, which templates may use as a keyword
        self._asked_time = True
        return datetime.now().strftime(format)


class _Generation(Extension):
    """`{% generation %}` marks model output for training; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012 -- as jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _Dict:
    """`dict` without the attributes of the class, except `fromkeys`."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` that rejects names with a leading underscore."""

    def __init__(*args: Any, **named: Any) -> None:  # like jinja's own, so that a field may be named self
        self, args = args[0], args[1:]
        fields = dict(*args, **named)
        for name in fields:
            _check_name(name)
        Namespace.__init__(self, fields)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name like {name!r}")


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _to_json(
    value: object, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _limit_memory(megabytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):  # not permitted, or already lower
            continue


def main() -> None:
    """Serve until stdin closes; the first line of output signals that requests can be read."""
    seconds, megabytes = float(sys.argv[1]), int(sys.argv[2])
    renderer = SandboxRenderer()
    _limit_memory(megabytes)
    answers = sys.stdout.buffer
    answers.write(b"\n")
    answers.flush()
    with Path(os.devnull).open("w") as nowhere:
        for line in sys.stdin.buffer:
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            answer = json.dumps(renderer.answer(json.loads(line)))
            faulthandler.cancel_dump_traceback_later()
            answers.write(answer.encode() + b"\n")
            answers.flush()


if __name__ == "__main__":
    main()
