"""`python -m bench.gpu`: measures Phi-4 and Mistral at full size on one GPU, without network, in under ten minutes.

Writes random weights to a temporary directory and loads them with our engine like a download. Prints for each model:
load time, memory compared with the catalog's estimate, tokens per second at 1, 8 and 32 conversations with the share of
the limit that memory bandwidth sets, the first token at 2,000 tokens of history with and without a cached prefix, and,
for comparison, generate() and the library's batching manager alone, with CUDA graphs and without. Finally it tests
out-of-memory handling on a GPU that another allocation filled, and a conversation that returns after the KV cache
evicted it.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from bench.asking import Timed, ask, conversation
from bench.shapes import WORDS, write
from bot.engine.client.process import EngineProcess
from bot.types.engine import LoadedModel, LoadProgress, ModelSource
from bot.types.errors import InhouseError

TOKENS = 128
HISTORY = 2000
GB = 1e9


def bandwidth() -> float:
    """Bytes per second that a copy on the GPU reads and writes."""
    source = torch.empty(2 * 1024**3, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * source.numel() / median(times)


def say(text: str) -> None:
    """Prints a line and flushes."""
    print(text, flush=True)


def progress(state: LoadProgress) -> None:
    """Ignores the progress of a load."""


async def at_once(engine: EngineProcess, number: int, tag: str) -> tuple[float, float, float]:
    """Tokens per second of `number` conversations at once; median and worst seconds to the first text."""
    prompts = [conversation([f"{tag} {place}: tell me about {WORDS}"]) for place in range(number)]
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(ask(engine, f"{tag} {place}", prompt, TOKENS) for place, prompt in enumerate(prompts))
    )
    took = time.perf_counter() - began
    firsts = sorted(answer.first_s for answer in answers)
    return sum(answer.usage.generated_tokens for answer in answers) / took, median(firsts), firsts[-1]


async def first_token(engine: EngineProcess, said: list[str], tag: str) -> Timed:
    """Times the first text of an answer to a history."""
    return await ask(engine, tag, conversation(said), 8, only_first=True)


async def turns(engine: EngineProcess) -> None:
    """Times the first token of a turn with a cached prefix and without."""
    for attempt in range(3):
        words = f"{attempt} {WORDS} "
        said = [words * (HISTORY // 24), "yes", "and then?"]
        cold = await first_token(engine, said, f"cold {attempt}")
        warm = await first_token(engine, [*said, "this", "and now?"], f"warm {attempt}")
        say(
            f"  first token at {warm.usage.prompt_tokens} tokens: cold {cold.first_s * 1000:.0f} ms, next turn "
            f"{warm.first_s * 1000:.0f} ms ({warm.usage.cached_tokens} found), ratio {warm.first_s / cold.first_s:.3f}"
        )


async def evicted(name: str, folder: Path) -> None:
    """Times the first token of a conversation that the KV cache evicted, with and without offloading to RAM."""
    for offload_mb in (0, 8000):
        engine = EngineProcess()
        source = ModelSource(name, str(folder), device="cuda", kv_cache_mb=1000, kv_offload_mb=offload_mb)
        loaded = await engine.load(source, progress)
        said = [f"{place} {WORDS} " * (HISTORY // 24) for place in range(2 + loaded.kv_cache_tokens // HISTORY)]
        for place, text in enumerate(said):
            await first_token(engine, [text], f"other {place}")
        back = await first_token(engine, [said[0], "yes", "and then?"], "back")
        say(
            f"  back after {len(said) - 1} others, {offload_mb} MB of RAM for it: {back.first_s * 1000:.0f} ms "
            f"({back.usage.cached_tokens} of {back.usage.prompt_tokens} tokens found)"
        )
        await engine.close()


def serially(folder: Path) -> float:
    """Tokens per second of plain generate(), in a separate process."""
    code = (
        "import sys, time, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, device_map={'': 0}).eval()\n"
        "ids = torch.arange(5, 45, device='cuda')[None]\n"
        "a = dict(attention_mask=torch.ones_like(ids), max_new_tokens=128, min_new_tokens=128, do_sample=False)\n"
        "m.generate(ids, **a); torch.cuda.synchronize(); t = time.perf_counter()\n"
        "m.generate(ids, **a); torch.cuda.synchronize(); print(128 / (time.perf_counter() - t))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    if done.returncode:
        say(done.stderr[-1500:])
        return float("nan")
    return float(done.stdout.split()[-1])


def bare(folder: Path, *flags: str) -> str:
    """Runs the library's manager alone in a separate process: tokens per second for each number of conversations."""
    command = [sys.executable, "-m", "bench.bare", str(folder), *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "nothing within two minutes"
    lines = [" conversations: ".join(line.split()) for line in done.stdout.splitlines()]
    if done.returncode:
        lines += done.stderr.strip().splitlines()[-1:]
    return ", ".join(lines)


async def ladder(engine: EngineProcess) -> None:
    """Fills the GPU's memory, sends a long prompt, frees the memory, and asks again."""
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(int(free - 0.3 * GB), dtype=torch.uint8, device="cuda")
    said = [(WORDS + " ") * 900]
    try:
        answer = await ask(engine, "squeezed", conversation(said), 8)
        say(f"  with 0.3 GB free: a prompt of {answer.usage.prompt_tokens} tokens was answered all the same")
    except InhouseError as error:
        say(f"  with 0.3 GB free: {type(error).__name__}: {error}")
    del hog
    torch.cuda.empty_cache()
    answer = await ask(engine, "afterwards", conversation(["and now?"]), 8)
    say(f"  with the room back: {answer.usage.generated_tokens} tokens, first after {answer.first_s * 1000:.0f} ms")


def size_of(folder: Path) -> int:
    """Bytes of a model's weights on disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


async def measure(engine: EngineProcess, name: str, folder: Path, limit: float, compare: bool) -> LoadedModel:
    """Measures one model and prints all figures."""
    loaded = await engine.load(ModelSource(name, str(folder), device="cuda"), progress)
    stats = await engine.stats()
    weights = size_of(folder)
    beside = ", ".join(loaded.resident[1:]) or "no other"
    say(
        f"  loaded in {loaded.load_s:.1f} s beside {beside}, weights {loaded.weights_mb} MB ({weights / 1e6:.0f} MB on "
        f"disk), {stats.gpu_used_mb} of {stats.gpu_total_mb} MB used, KV cache {loaded.kv_cache_tokens} tokens "
        f"{loaded.note}"
    )
    await at_once(engine, 8, f"{name} warm-up")
    for number in (1, 8, 32):
        speeds = [await at_once(engine, number, f"{name} {number} {attempt}") for attempt in range(3)]
        speed, first, worst = sorted(speeds)[1]
        bound = limit / weights * min(number, loaded.max_running)
        say(
            f"  {number:2} conversations: {speed:7.1f} tokens/s ({speed / bound:.0%} of the bandwidth's {bound:.0f}), "
            f"first text {first * 1000:.0f} ms, worst {worst * 1000:.0f} ms"
        )
    await turns(engine)
    if compare:
        say(f"  generate() one after another: {serially(folder):.1f} tokens/s")
        for flags in ((), ("--graphs",), ("--graphs", "--ahead")):
            say(f"  the library's manager alone {' '.join(flags) or 'without graphs'}: {bare(folder, *flags)}")
    return loaded


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--models", default="phi-4,mistral-7b-instruct-v0.3", help="names, separated by commas")
    parser.add_argument("--layers", type=int, help="so many layers only, for a small card")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no NVIDIA GPU here that torch can use.")
    limit = bandwidth()
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, a copy moves {limit / GB:.0f} GB/s")
    torch.cuda.empty_cache()
    engine = EngineProcess()
    with tempfile.TemporaryDirectory() as root:
        for name in given.models.split(","):
            began = time.perf_counter()
            folder = write(name, Path(root) / name, "cuda", given.layers)
            torch.cuda.empty_cache()
            say(f"{name}: written in {time.perf_counter() - began:.0f} s")
            await measure(engine, name, folder, limit, compare=name.startswith("mistral"))
        say("out of memory:")
        await ladder(engine)
        await engine.close()
        say("evicted:")
        await evicted(name, folder)


if __name__ == "__main__":
    asyncio.run(main())
