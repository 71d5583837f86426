"""Builds the commands that start a server: its program, arguments and environment.

The server gets an address on loopback, a key by its environment, the model's name as its alias, and what
INHOUSE_ENGINE_ARGS adds.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bot.config.settings import Settings
from bot.engine.client.child_process import SECRET_VARIABLES
from bot.engine.local_server.llama_server import parse_arguments
from bot.models.fit import BYTES, CPU_KV_MB
from bot.models.gguf_header import read_gguf
from bot.models.hardware import MB
from bot.types.engine import ModelSource
from bot.types.errors import ConfigError, ModelError

SLOTS = 8
"""Answers that llama.cpp writes at once; they share one KV cache."""
SLOT_TOKENS = 1024
"""Least tokens of the KV cache for each slot."""
LEAST_WINDOW = 4096
"""A KV cache on the CPU is at least so many tokens, or the model's window."""
BATCH = 512
"""Tokens of a prompt that llama.cpp reads in one step, in which no other answer goes on."""
HTTP_THREADS = 64
"""A stream takes one of llama.cpp's threads, and a health check that waits another."""

LLAMA_CPP_MISSING = (
    "INHOUSE_ENGINE is llama.cpp, and there is no program llama-server on PATH and no package xllamacpp; "
    "`pip install 'inhouse[llama-cpp]'` installs the package."
)
VLLM_FOLDER = f"{sys.prefix}-vllm"
"""A virtual environment for vLLM, which needs other versions of our packages, beside that of Inhouse."""
VLLM_MISSING = (
    f"INHOUSE_ENGINE is vllm, and there is no program vllm on PATH or in {VLLM_FOLDER}/bin; "
    f"`python3 -m venv {VLLM_FOLDER} && {VLLM_FOLDER}/bin/pip install vllm` installs it."
)

DEVICE = re.compile(r"^ {1,8}[\w-]{1,40}: .{1,200} \(\d{1,9} MiB, (\d{1,9}) MiB free\)", re.MULTILINE)
"""A line of llama.cpp about a GPU."""
DEVICES_S = 60.0

STRIPPED = ("LLAMA_ARG_", "LLAMA_API_KEY", "VLLM_API_KEY", "HF_TOKEN")
"""Beginnings of variables that the server does not get: they could set what INHOUSE_ENGINE_ARGS may not."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A server to start. alias: the model's name there. slots: answers at once, 0 if the server decides.

    begin: program and arguments, to which `at` adds the address. key_variable: the environment's variable for its key.
    health: what is asked to see whether it works; its answer needs a turn of the loop that writes the answers. several:
    others may stay in memory beside it. on_gpu: it computes on a GPU.
    """

    title: str
    alias: str
    begin: tuple[str, ...]
    environment: Mapping[str, str]
    key_variable: str
    health: str
    weights_mb: int = 0
    dtype: str = ""
    slots: int = 0
    kv_cache_tokens: int = 0
    kv_cache_mb: int = 0
    several: bool = False
    on_gpu: bool = False

    def at(self, port: int) -> list[str]:
        """The whole command for a port on loopback."""
        return [*self.begin, "--host", "127.0.0.1", "--port", str(port)]


class ServerCommands:
    """The commands for one value of INHOUSE_ENGINE. Raises ConfigError if its program is missing."""

    def __init__(self, settings: Settings) -> None:
        self._engine, self._args = settings.engine, settings.engine_args
        self.title = "vLLM" if settings.engine == "vllm" else "llama.cpp"
        self._program = find_program(settings.engine)
        if not self._program:
            raise ConfigError(VLLM_MISSING if settings.engine == "vllm" else LLAMA_CPP_MISSING)
        if is_package(self._program):
            parse_arguments(["--model", "", *self._args])

    def command(self, source: ModelSource) -> ServerCommand:
        """The command for a model. Blocks: reads the model's header. Raises ModelError."""
        return self._vllm(source) if self._engine == "vllm" else self._llama_cpp(source)

    def gpu_free_mb(self) -> int | None:
        """Free memory of the GPUs that llama.cpp can use; None if there are none. Blocks: runs the program."""
        try:
            done = subprocess.run(
                [*self._program, "--list-devices"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=DEVICES_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        found = DEVICE.findall((done.stdout + done.stderr).decode("utf-8", "replace"))
        return sum(map(int, found)) if found else None

    def _environment(self) -> dict[str, str]:
        return child_environment(_import_path() if is_package(self._program) else {})

    def _vllm(self, source: ModelSource) -> ServerCommand:
        folder = Path(source.path)
        if not folder.is_dir():
            raise ModelError(
                f"{source.name} is in a GGUF file, and vLLM needs a model directory: choose another model, or set "
                "INHOUSE_ENGINE=llama.cpp."
            )
        alias = alias_of(source.name)
        set_up = ["--max-model-len", "auto", "--disable-uvicorn-access-log"]
        if source.dtype != "auto":
            set_up += ["--dtype", source.dtype]
        if source.kv_cache_mb is not None:
            set_up += ["--kv-cache-memory-bytes", str(source.kv_cache_mb * MB)]
        begin = (*self._program, "serve", source.path, *set_up, *self._args, "--served-model-name", alias)
        local = {"VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return ServerCommand(
            title=self.title,
            alias=alias,
            begin=begin,
            environment=child_environment(local),
            key_variable="VLLM_API_KEY",
            health="/health",
            weights_mb=weights // MB,
            dtype=source.dtype,
        )

    def _llama_cpp(self, source: ModelSource) -> ServerCommand:
        file = Path(source.path)
        if file.suffix.lower() != ".gguf":
            raise ModelError(
                f"{source.name} is not in a GGUF file, which llama.cpp needs: choose another model, or set "
                "INHOUSE_ENGINE=auto."
            )
        header = read_gguf(file)
        on_gpu = source.device != "cpu" and source.gpu_layers != 0 and self.gpu_free_mb() is not None
        per_token = header.kv_values * BYTES["float16"]
        window = min((size for size in (source.context_window, header.context_window) if size), default=LEAST_WINDOW)
        tokens = 0  # llama.cpp chooses what fits the GPU
        if per_token and (source.kv_cache_mb is not None or not on_gpu):
            tokens = int((source.kv_cache_mb or CPU_KV_MB) * MB / per_token)
            tokens = max(min(window, LEAST_WINDOW), min(tokens, window * SLOTS)) // 256 * 256
        elif not on_gpu:
            tokens = window
        slots = max(1, min(SLOTS, tokens // SLOT_TOKENS)) if tokens else SLOTS
        alias = alias_of(source.name)
        set_up = ["--model", source.path, "--ctx-size", str(tokens), "--parallel", str(slots), "--kv-unified"]
        set_up += ["--batch-size", str(BATCH), "--threads-http", str(HTTP_THREADS)]
        set_up += ["--cache-ram", str(source.kv_offload_mb), "--metrics", "--no-webui"]
        if source.device == "cpu" or source.gpu_layers is not None:
            set_up += ["--n-gpu-layers", "0" if source.device == "cpu" else str(source.gpu_layers)]
        return ServerCommand(
            title=self.title,
            alias=alias,
            begin=(*self._program, *set_up, *self._args, "--alias", alias),
            environment=self._environment(),
            key_variable="LLAMA_API_KEY",
            health="/metrics",
            weights_mb=header.weights_bytes // MB,
            dtype=header.file_type or "GGUF",
            slots=slots,
            kv_cache_tokens=tokens,
            kv_cache_mb=int(tokens * per_token / MB),
            several=True,
            on_gpu=on_gpu,
        )


def find_program(engine: str) -> tuple[str, ...]:
    """The beginning of the command of a server's program; () if there is none.

    PATH comes first; then what is installed for this Python.
    """
    if engine == "vllm":
        found = shutil.which("vllm") or shutil.which("vllm", path=f"{sys.prefix}/bin{os.pathsep}{VLLM_FOLDER}/bin")
        return (found,) if found else ()
    if found := shutil.which("llama-server"):
        return (found,)
    if importlib.util.find_spec("xllamacpp") is not None:
        return (sys.executable, "-m", "bot.engine.local_server.llama_server")
    return ()


def is_package(program: tuple[str, ...]) -> bool:
    """Whether a program is our own one around the package xllamacpp."""
    return len(program) > 1


def alias_of(name: str) -> str:
    """A model's name as servers take it: without what would separate two names or begin an argument or a path."""
    return re.sub(r"[^\w./:@+-]", "-", name, flags=re.ASCII).lstrip("-.") or "model"


def child_environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: ours without tokens and without other ways to set its arguments."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in SECRET_VARIABLES and not name.upper().startswith(STRIPPED)
    }
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **more}


def _import_path() -> dict[str, str]:
    """The variable with which a child finds this package."""
    root = str(Path(__file__).resolve().parents[3])
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
