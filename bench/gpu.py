"""`python -m bench.gpu`: decides whether our own GPU batch (INHOUSE_GPU_BATCH=rows) is right and fast on this card.

Runs the checks A to G, without network and in under ten minutes, and prints one table at the end: what was found, and
what that decides. It stops after A if torch's FlashAttention is wrong over row offsets.

A  the operator against float32: shapes, windows, rows out of order, NaN in unused slots, graphs replayed for other rows
B  steps at Phi-4's width: eager, as graphs, with torch's RMS norm and without, the capture's time and memory
C  the operator at other lengths and bounds of the keys
D  sampling: ms and waits a step
E  the library's manager, without CUDA graphs and with them
F  Phi-4 in the whole engine: `rows` and `library` at 1, 8 and 32 conversations, first text beside decodes, next turn
G  a card with 0.5 GB left after the load: answers without graphs, instead of a lost device

--rehearse runs all of it on the CPU with tiny sizes, to see that it works; the figures then mean nothing.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.asking import ask, conversation, unseen
from bench.gpu_operator import CASES, MIXED, Case, check_operator, cost_of_bound
from bench.gpu_steps import LAYERS, Steps, measure_sampling, measure_steps, model_of, waits_of_sampling
from bench.shapes import WORDS, write
from bot.engine.client.process import EngineProcess
from bot.engine.gpu.cuda_graphs import Capture, CudaGraphs
from bot.engine.gpu.flat_attention import Kernel
from bot.engine.gpu.flat_step import STEP_SIZES
from bot.models.device_errors import release_memory
from bot.types.engine import ModelSource
from bot.types.errors import InhouseError
from tests.support.builders.flash_attention import on_cpu
from tests.support.builders.step_recorder import RecordedSteps

LIMIT_S = 570
"""No check begins that would end later."""
HISTORY = 2000
ROOM = int(1.3e9)
"""Bytes of the card beside the weights in check G: the context, 300 MB of KV cache, and 0.5 GB."""
SLOW_STEP = 1.5
"""A graph of a decode step may take so many times what reading the weights takes."""
NARROW: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@dataclass(slots=True)
class Plan:
    """What is measured: on a card, or in a rehearsal on the CPU."""

    device: torch.device
    capture: Callable[[], Capture]
    tokens: int
    layers: int | None
    fields: dict[str, Any]
    rehearsal: bool


@dataclass(slots=True)
class Table:
    """The results. Each is printed at once, and all of them at the end."""

    began: float = field(default_factory=time.perf_counter)
    rows: list[tuple[str, float, str, str]] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """Seconds until all must be over."""
        return LIMIT_S - (time.perf_counter() - self.began)

    def fits(self, check: str, seconds: float) -> bool:
        """Whether there is time for a check; if not, the table says so."""
        if seconds <= self.left_s:
            return True
        self.rows.append((check, 0.0, "left out: no time", ""))
        return False

    def add(self, check: str, began: float, found: str, decides: str) -> None:
        """Adds a result."""
        self.rows.append((check, time.perf_counter() - began, found, decides))
        say(f"{check}: {found} -> {decides}")

    def show(self) -> None:
        """Prints the table."""
        say("\n| | s | found | decides |\n| --- | --- | --- | --- |")
        for check, seconds, found, decides in self.rows:
            say(f"| {check} | {seconds:.0f} | {found} | {decides} |")


def say(text: str) -> None:
    """Prints a line and flushes."""
    print(text, flush=True)


def operator(plan: Plan, table: Table) -> tuple[Kernel, ...]:
    """Check A: the kernels that are right."""
    began = time.perf_counter()
    cases = [Case("one token a row", 4, 2, 64, 60, CASES[0].rows), Case("mixed", 4, 2, 64, None, MIXED)]
    verdict = check_operator(plan.device, plan.capture(), cases if plan.rehearsal else CASES)
    found = ", ".join(f"{kernel.value} differs by {worst:.4f}" for kernel, worst in verdict.worst.items())
    decides = "ship with the split of keys" if Kernel.SPLIT in verdict.kernels else "ship without the split of keys"
    table.add(
        "A operator",
        began,
        "; ".join([found, *verdict.wrong]),
        decides if verdict.kernels else "stop: `library` stays, and nothing below is measured",
    )
    return verdict.kernels


def steps(plan: Plan, table: Table, kernels: tuple[Kernel, ...]) -> Steps:
    """Check B."""
    began = time.perf_counter()
    model = model_of(plan.device, plan.layers or LAYERS, **plan.fields)
    measured = (1, 8, 64) if plan.rehearsal else (1, 8, 32, 64, 512)
    found = measure_steps(model, plan.capture(), kernels, 1 << 20 if plan.rehearsal else 2 << 30, measured)
    times = [
        f"{size} tokens {ms:.2f} ms eager, {found.replay_ms.get(size, float('nan')):.2f} as a graph "
        f"({found.unfused_ms.get(size, float('nan')):.2f} with the model's own norms)"
        for size, ms in found.eager_ms.items()
    ]
    gaps = ", ".join(f"{ms:.2f} at {number}" for number, ms in found.gap_ms.items())
    first = found.replay_ms.get(1, float("inf"))
    table.add(
        "B steps",
        began,
        f"copy {found.copy_gbs:.0f} GB/s, weights' floor {found.floor_ms:.2f} ms, {len(found.captured)} of "
        f"{len(STEP_SIZES)} sizes captured in {found.capture_s:.1f} s and {found.capture_mb:.0f} MB; "
        f"{'; '.join(times)}; "
        f"{found.kernels['fused']} kernels a step, {found.kernels['unfused']} with the model's own norms; "
        f"the host adds {gaps} ms",
        f"a graph takes {first / found.floor_ms:.2f} x the floor: "
        + ("ship" if first <= SLOW_STEP * found.floor_ms else f"above {SLOW_STEP}: find out why first"),
    )
    return found


def bounds(plan: Plan, table: Table, kernel: Kernel) -> None:
    """Check C."""
    began = time.perf_counter()
    sizes: dict[str, Any] = {"lengths": (64, 1200), "rows": (1, 2)} if plan.rehearsal else {}
    found = cost_of_bound(plan.device, plan.capture(), kernel, **sizes)
    worst = max(wide / narrow for _, _, wide, narrow in found)
    times = ", ".join(f"{rows} x {length}: {wide:.3f} / {narrow:.3f}" for rows, length, wide, narrow in found)
    decides = "two buckets of max_k" if worst > 1.05 else "one max_k"
    table.add("C lengths", began, f"ms with the longest and a narrow max_k: {times}", f"{worst - 1:+.0%}: {decides}")


def sampling(plan: Plan, table: Table) -> None:
    """Check D."""
    began = time.perf_counter()
    vocabulary = 1000 if plan.rehearsal else 100_352
    found = measure_sampling(plan.device, vocabulary)
    times = ", ".join(f"{ms:.2f} ms at {number}" for number, ms in found.items())
    waits = waits_of_sampling(plan.device, vocabulary)
    decides = "put sampling into the graph" if max(found.values()) > 1.0 else "sampling stays outside the graph"
    table.add("D sampling", began, f"{times}, {waits} waits a step", decides)


def manager(plan: Plan, table: Table, folder: Path) -> None:
    """Check E."""
    began, found = time.perf_counter(), []
    for flags in ([], ["--graphs"]):
        name = " ".join(flags) or "without graphs"
        if plan.rehearsal and flags:
            continue  # graphs need a GPU
        command = [sys.executable, "-m", "bench.bare", str(folder), "--device", plan.device.type, *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            lines = ", ".join(" conversations: ".join(line.split()) for line in done.stdout.splitlines())
            last = (done.stderr.strip().splitlines() or [""])[-1]
            found.append(f"{name}: {lines if not done.returncode else last}")
        except subprocess.TimeoutExpired:
            found.append(f"{name}: nothing within a minute")
    table.add(
        "E library", began, f"{LAYERS} layers, tokens/s: {'; '.join(found)}", "compare with B: closes the question"
    )


async def at_once(engine: EngineProcess, number: int, tag: str, tokens: int) -> float:
    """Tokens per second of `number` conversations at once."""
    prompts = [conversation([f"{tag} {place}: tell me about {WORDS}"]) for place in range(number)]
    began = time.perf_counter()
    made = await asyncio.gather(
        *(ask(engine, f"{tag} {place}", prompt, tokens) for place, prompt in enumerate(prompts))
    )
    return sum(answer.usage.generated_tokens for answer in made) / (time.perf_counter() - began)


async def firsts(engine: EngineProcess, history: int, tokens: int) -> tuple[float, float, float]:
    """Ms to the first text of a long prompt alone, of its conversation's next turn, and beside eight answers."""
    said = [f"{WORDS} " * (history // 24), "yes", "and then?"]
    alone = await ask(engine, "alone", conversation(said), 8, only_first=True)
    turn = await ask(engine, "turn", conversation([*said, "this", "and now?"]), 8, only_first=True)
    running = asyncio.create_task(at_once(engine, 8, "beside", 2 * tokens))
    await asyncio.sleep(0.5)  # they write by then, and for seconds more
    beside = await ask(engine, "late", conversation([f"2 {WORDS} " * (history // 24)]), 8, only_first=True)
    await running
    return alone.first_s * 1000, turn.first_s * 1000, beside.first_s * 1000


async def whole(plan: Plan, table: Table, folder: Path, found: Steps) -> None:
    """Check F."""
    began, speeds, told = time.perf_counter(), dict[str, list[float]](), list[str]()
    history = 200 if plan.rehearsal else HISTORY
    for kind in ("rows", "library"):
        engine = EngineProcess()
        try:
            source = ModelSource("phi-4", str(folder), device=plan.device.type, gpu_batch=kind)
            loaded = await engine.load(source, unseen)
            await at_once(engine, 8, "warm-up", plan.tokens)
            speeds[kind] = []
            for number in (1, 8, 32):
                tried = [await at_once(engine, number, f"{number} {attempt}", plan.tokens) for attempt in range(2)]
                speeds[kind].append(median(tried))
            times = await firsts(engine, history, plan.tokens)
        finally:
            await engine.close()
        told.append(
            f"{kind}: {' / '.join(f'{speed:.0f}' for speed in speeds[kind])} tokens/s at 1 / 8 / 32, first text "
            f"{' / '.join(f'{ms:.0f}' for ms in times)} ms (alone, next turn, beside 8), load {loaded.load_s:.0f} s"
        )
    gap = found.gap_ms[1] * speeds["rows"][0] / 1000
    better = all(ours > theirs for ours, theirs in zip(speeds["rows"], speeds["library"], strict=True))
    table.add(
        "F engine",
        began,
        "; ".join(told),
        ("`rows` becomes the default" if better else "`library` stays the default")
        + f"; the host's share of a step is {gap:.0%}: "
        + ("prepare one step ahead" if gap > 0.08 else "no step ahead"),
    )


async def crowded(plan: Plan, table: Table, folder: Path) -> None:
    """Check G."""
    began, hog = time.perf_counter(), None
    if plan.device.type == "cuda":
        release_memory()
        free, _ = torch.cuda.mem_get_info()
        hog = torch.empty(max(0, free - size_of(folder) - ROOM), dtype=torch.uint8, device=plan.device)
    engine = EngineProcess()
    try:
        source = ModelSource("crowded", str(folder), device=plan.device.type, kv_cache_mb=300, gpu_batch="rows")
        await engine.load(source, unseen)
        answer = await ask(engine, "crowded", conversation(["and now?"]), 16)
        found, decides = f"{answer.usage.generated_tokens} tokens", "answers without what does not fit"
    except InhouseError as error:
        found, decides = f"{type(error).__name__}: {error}", "find out why it did not answer"
    del hog
    await engine.close()
    table.add("G full card", began, found, decides)


async def measure(plan: Plan, table: Table) -> int:
    """Runs the checks; the exit status."""
    kernels = operator(plan, table)
    if not kernels:
        return 1
    found = steps(plan, table, kernels)
    if table.fits("C lengths", 30):
        bounds(plan, table, kernels[0])
    if table.fits("D sampling", 30):
        sampling(plan, table)
    with tempfile.TemporaryDirectory() as root:
        small = write("phi-4", Path(root) / "small", plan.device.type, plan.layers or LAYERS, **plan.fields)
        release_memory()
        if table.fits("E library", 120):
            manager(plan, table, small)
        if table.fits("F engine", 240):
            full = write("phi-4", Path(root) / "full", plan.device.type, plan.layers, **plan.fields)
            release_memory()
            try:
                await asyncio.wait_for(whole(plan, table, full, found), table.left_s)
            except TimeoutError:
                table.rows.append(("F engine", 0.0, "not done in time", "`library` stays the default"))
        if table.fits("G full card", 30):
            await crowded(plan, table, small)
    return 0


def size_of(folder: Path) -> int:
    """Bytes of a model's weights on disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--layers", type=int, help="so many layers of Phi-4 only, for a small card")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with tiny sizes; the figures mean nothing")
    given = parser.parse_args()
    if not given.rehearse and not torch.cuda.is_available():
        raise SystemExit("There is no NVIDIA GPU here that torch can use; --rehearse runs the checks on the CPU.")
    device = torch.device("cpu" if given.rehearse else "cuda")
    plan = Plan(device, lambda: CudaGraphs(device), 128, given.layers, {}, given.rehearse)
    if given.rehearse:
        plan = Plan(device, RecordedSteps, 8, 2, NARROW, True)
    else:
        say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    table = Table()
    with on_cpu() if given.rehearse else contextlib.nullcontext():
        status = asyncio.run(measure(plan, table))
    table.show()
    raise SystemExit(status)


if __name__ == "__main__":
    main()
