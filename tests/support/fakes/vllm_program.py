"""A program `vllm` that logs as vLLM does while it loads, and serves the fake OpenAI-compatible server in its place.

`write_vllm(folder)` puts it into a folder for PATH. It refuses arguments and variables that Inhouse must not give it.
FAKE_VLLM chooses what happens: '' (it serves), 'error' (it breaks its first answer off), 'hang' (that one stops in the
middle), 'memory' or 'architecture' (it ends as vLLM does).
"""

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.support.fakes.openai.server import FakeOpenAI

ROOT = Path(__file__).parents[3]
WINDOW = 2048

LOADING = (
    "(APIServer pid=7) INFO 11-29 11:51:56 [model.py:733] Resolved architecture: LlamaForCausalLM",
    "(Worker pid=9) INFO 11-29 11:53:14 [cpu_model_runner.py:68] Starting to load model /models/smollm2...",
    "\rLoading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]"
    "\rLoading safetensors checkpoint shards:  50% Completed | 1/2 [00:02<00:02,  2.25s/it]"
    "\rLoading safetensors checkpoint shards: 100% Completed | 2/2 [00:04<00:00,  2.25s/it]",
    "(Worker pid=9) INFO 11-29 11:53:17 [default_loader.py:501] Loading weights took 2.26 seconds",
    "(Worker pid=9) INFO 11-29 11:53:24 [cpu_model_runner.py:87] Warming up model for the compilation...",
    "(EngineCore pid=8) INFO 11-29 11:53:29 [kv_cache_utils.py:1310] GPU KV cache size: 46,592 tokens",
    "(EngineCore pid=8) INFO 11-29 11:53:30 [core.py:281] init engine (profile, create kv cache, warmup model) took 6",
)
"""Lines of vLLM 0.32."""

ENDINGS = {
    "memory": (
        "(EngineCore pid=8) ERROR 11-29 11:53:29 [core.py:900] torch.OutOfMemoryError: CUDA out of memory. Tried to "
        "allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.10 GiB is free.\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    ),
    "architecture": "ValueError: Model architectures ['OddForCausalLM'] are not supported for now.",
}


def write_vllm(folder: Path) -> Path:
    """Write the program `vllm` to a folder."""
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m {__spec__.name} "$@"\n')
    program.chmod(0o755)
    return program


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--host", required=True, choices=["127.0.0.1"])
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--max-model-len", required=True, choices=["auto"])
    parser.add_argument("--disable-uvicorn-access-log", required=True, action="store_true")
    parser.add_argument("--dtype")
    parser.add_argument("--kv-cache-memory-bytes", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    return parser.parse_args()


async def _serve(given: argparse.Namespace, key: str, worker: "subprocess.Popen[bytes]") -> None:
    models = {given.served_model_name: WINDOW}
    async with FakeOpenAI("vllm", models, key=key, port=given.port, echo="{model} read: {question}") as server:
        if os.environ.get("FAKE_VLLM") == "error":
            server.faults.reset()
        if os.environ.get("FAKE_VLLM") == "hang":
            server.faults.hang(word=2)
        print("(APIServer pid=7) INFO:     Application startup complete.", flush=True)
        await asyncio.to_thread(worker.wait)


def main() -> None:
    """Log, then serve or end as FAKE_VLLM says."""
    given = _given()
    assert given.model.is_dir(), "the model is no directory"
    assert os.environ["VLLM_HOST_IP"] == "127.0.0.1", "its own sockets are not on loopback"
    assert "DISCORD_BOT_TOKEN" not in os.environ, "it got a token"
    for line in LOADING[:2]:
        print(line, flush=True)
    if ending := ENDINGS.get(os.environ.get("FAKE_VLLM", "")):
        print(ending, flush=True)
        sys.exit(1)
    for line in LOADING[2:]:
        print(line, flush=True)
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])  # in its group, as vLLM's
    asyncio.run(_serve(given, os.environ["VLLM_API_KEY"], worker))


if __name__ == "__main__":
    main()
