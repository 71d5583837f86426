"""Check the server that Inhouse runs for `inhouse doctor`: its program, version and GPU, or what would install it."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bot.config.settings import Settings
from bot.engine.local_server.server_commands import ServerCommands, child_environment, find_program, is_package
from bot.types.errors import ConfigError
from bot.types.findings import Finding, ok, warning, wrong

VERSION_S = 30.0
CUDA_WHEELS = "https://xorbitsai.github.io/xllamacpp/whl/cu128"


async def server(settings: Settings, has_gpu: Callable[[], Awaitable[bool]]) -> AsyncIterator[Finding]:
    """Check the program of INHOUSE_ENGINE. has_gpu: whether torch can use a CUDA GPU."""
    try:
        commands = ServerCommands(settings)
    except ConfigError as error:
        yield _missing(settings.engine, str(error))
        return
    program = find_program(settings.engine)
    place = "the package xllamacpp" if is_package(program) else program[0]
    yield ok(commands.title, f"{place}, {await asyncio.to_thread(_version, settings.engine, program)}")
    if settings.engine == "llama.cpp" and settings.device != "cpu" and settings.gpu_layers != 0:
        free_mb = await asyncio.to_thread(commands.gpu_free_mb)
        if free_mb is not None:
            yield ok("its GPU", f"{free_mb:,} MB free")
        elif await has_gpu():
            fix = (
                f"`pip install xllamacpp --force-reinstall --index-url {CUDA_WHEELS}`, or put a llama-server with CUDA "
                "on PATH."
            )
            yield warning("its GPU", "there is one, and this build of llama.cpp does not use it", fix)
    elif settings.engine == "vllm" and not await has_gpu():
        yield warning("its GPU", "vLLM is made for GPUs, and there is none", "INHOUSE_ENGINE=llama.cpp suits a CPU.")


async def recommended(has_gpu: Callable[[], Awaitable[bool]]) -> AsyncIterator[Finding]:
    """Recommend vLLM where it is installed, there is a GPU for it, and INHOUSE_ENGINE is auto."""
    if find_program("vllm") and await has_gpu():
        fix = "INHOUSE_ENGINE=vllm uses it; it answers many people at once faster (docs/models.md)."
        yield warning("engine", "vLLM is installed and there is a GPU, and INHOUSE_ENGINE is auto", fix)
    else:
        yield ok("engine", "in a process of Inhouse's own (INHOUSE_ENGINE=auto)")


def _missing(engine: str, sentence: str) -> Finding:
    found, _, fix = sentence.partition("; ")
    if not find_program(engine):
        return wrong(engine, found.removeprefix(f"INHOUSE_ENGINE is {engine}, and "), f"{fix[:1].upper()}{fix[1:]}")
    return wrong(engine, sentence, "Correct INHOUSE_ENGINE_ARGS.")


def _version(engine: str, program: tuple[str, ...]) -> str:
    """What version a program is, without starting vLLM, whose import takes half a minute."""
    if is_package(program):
        try:
            return f"version {version('xllamacpp')}"
        except PackageNotFoundError:
            return "of an unknown version"
    if engine == "vllm":
        libraries = Path(program[0]).resolve().parent.parent / "lib"
        names = [each.name for each in libraries.glob("python*/site-packages/vllm-*.dist-info")]
        return f"version {names[0].split('-')[1].removesuffix('.dist')}" if names else "of an unknown version"
    try:
        done = subprocess.run(
            [*program, "--version"], env=child_environment({}), capture_output=True, timeout=VERSION_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "which does not tell its version"
    found = re.search(rb"version: ([\w.() -]{1,60})", done.stdout + done.stderr)
    return f"version {found[1].decode().strip()}" if found else "of an unknown version"
