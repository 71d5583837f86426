"""Tests the import rules, as tables that are compared with the source."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    {"cli"},
    {"service"},
    {"web"},
    {"core"},
    {"hosts"},
    {"generation"},
    {"conversations", "doctor", "engine", "replies", "setup"},
    {"models", "platforms"},
    {"config", "observability", "storage"},
    {"types"},
)
"""The packages of `bot` from top to bottom. A package may import itself and lower ones, nothing beside or above it."""

FOR_ADAPTERS = {"config", "platforms", "types"}
"""The packages of `bot` that adapters may import."""

KNOWS_ADAPTERS = {"cli", "service"}
"""The packages of `bot` that may import adapters."""

HEAVY = {"torch", "transformers", "accelerate", "bitsandbytes"}
"""Libraries that cost seconds and hundreds of MB: only the engine's process and one-shot commands may import them."""

ENGINE_PROCESS = {
    "bot.engine.batching.batch",
    "bot.engine.batching.fused_norms",
    "bot.engine.batching.row_batch",
    "bot.engine.batching.row_cache",
    "bot.engine.batching.sampling",
    "bot.engine.cpu.attention",
    "bot.engine.cpu.attention_groups",
    "bot.engine.cpu.cpu_batch",
    "bot.engine.cpu.kv_cache",
    "bot.engine.cpu.thread_count",
    "bot.engine.gpu.cuda_graphs",
    "bot.engine.gpu.device_sampler",
    "bot.engine.gpu.flat_attention",
    "bot.engine.gpu.flat_batch",
    "bot.engine.gpu.flat_cache",
    "bot.engine.gpu.flat_step",
    "bot.engine.gpu.kv_offload",
    "bot.engine.gpu.paged_batch",
    "bot.engine.gpu.row_offload",
    "bot.engine.gpu.scheduler",
    "bot.engine.memory.memory_estimate",
    "bot.engine.server.batched_generator",
    "bot.engine.server.engine_server",
    "bot.engine.server.answer",
    "bot.engine.server.mixed_generator",
    "bot.engine.server.model_cache",
    "bot.engine.server.sequential_generator",
    "bot.engine.text.decoding",
    "bot.engine.text.encoding",
    "bot.engine.text.prompts",
    "bot.engine.text.templates",
    "bot.models.device_errors",
    "bot.models.format_choice",
    "bot.models.loading",
    "bot.models.packing",
    "bot.models.picture_processor",
    "bot.models.pixtral_processor",
    "bot.models.tokenizer",
}
"""Modules that only this process imports, so they may import heavy libraries at the top."""

HEAVY_WHEN_CALLED = {
    "bot.doctor.torch_probe",
    "bot.engine.remote.prompt_process",
    "bot.engine.server.runner",
    "bot.engine.text.template_report",
    "bot.models.gguf_conversion",
    "bot.models.hardware",
    "bot.models.progress",
}
"""Modules that run as separate processes: their functions import heavy libraries, the module itself does not."""


class Import(NamedTuple):
    """`module` imports `target`. at_once: at import, not in a function."""

    module: str
    target: str
    line: int
    at_once: bool

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}, imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """All our modules by dotted name."""
    found = {}
    for package in ("bot", "adapters"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    """All our import statements, one entry per imported module."""
    return tuple(
        found for module, path in modules().items() for found in walk(module, ast.parse(path.read_text("utf-8")), True)
    )


def walk(module: str, node: ast.AST, at_once: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(module, alias.name, child.lineno, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}, line {child.lineno}: write the whole name, not a relative import"
            for alias in child.names:
                submodule = f"{child.module}.{alias.name}"
                target = submodule if submodule in modules() else str(child.module)
                yield Import(module, target, child.lineno, at_once)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from walk(module, child, at_once and not function and not typing_only)


def part(module: str) -> str:
    """bot.storage.inbox -> storage; bot itself -> ''."""
    return module.partition(".")[2].partition(".")[0]


def depth(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part(module) in layer)


def of(package: str, name: str) -> bool:
    return name.split(".")[0] == package


def test_every_part_has_its_place_in_the_table() -> None:
    placed = set().union(*LAYERS)
    strangers = {part(module) for module in modules() if of("bot", module)} - placed - {""}
    assert not strangers, f"give them a place in LAYERS: {sorted(strangers)}"
    assert sum(map(len, LAYERS)) == len(placed), "a part stands in two layers"


def test_imports_inside_bot_only_point_down() -> None:
    ours = [found for found in imports() if of("bot", found.module) and of("bot", found.target) and part(found.module)]
    assert ours
    wrong = [
        str(found)
        for found in ours
        if part(found.module) != part(found.target)
        and (not part(found.target) or depth(found.target) <= depth(found.module))
    ]
    assert not wrong, "\n".join(wrong)


def test_adapters_know_only_what_is_made_for_them() -> None:
    wrong = [
        str(found)
        for found in imports()
        if of("adapters", found.module) and of("bot", found.target) and part(found.target) not in FOR_ADAPTERS
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_top_knows_the_adapters() -> None:
    wrong = [
        str(found)
        for found in imports()
        if of("bot", found.module) and of("adapters", found.target) and part(found.module) not in KNOWS_ADAPTERS
    ]
    assert not wrong, "\n".join(wrong)


def is_heavy(found: Import) -> bool:
    return found.target.split(".")[0] in HEAVY or found.target in ENGINE_PROCESS


def test_heavy_libraries_and_what_imports_them_are_imported_only_where_the_tables_say() -> None:
    wrong = [
        str(found)
        for found in imports()
        if is_heavy(found)
        and found.module not in ENGINE_PROCESS
        and (found.at_once or found.module not in HEAVY_WHEN_CALLED)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_tables_name_only_modules_that_need_it() -> None:
    needing = {found.module for found in imports() if is_heavy(found)}
    idle = (ENGINE_PROCESS | HEAVY_WHEN_CALLED) - needing
    assert not idle, f"take these out of the tables: {sorted(idle)}"


@pytest.mark.parametrize("package", ["bot", "adapters"])
def test_importing_everything_else_brings_in_nothing_heavy(package: str) -> None:
    # Migrations need Alembic's context, and `__main__` modules run something.
    light = [
        module
        for module in modules()
        if of(package, module) and module not in ENGINE_PROCESS and not re.search(r"\.migrations|__main__", module)
    ]
    script = (
        "import importlib, json, sys\n"
        f"for module in {light!r}: importlib.import_module(module)\n"
        f"print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
