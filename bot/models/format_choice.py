"""Choose the 16-bit format of the linear layers on a CPU by measurement, and keep the result in the cache directory.

The result is kept by processor, version of torch, its instruction set and number of threads. A record that cannot be
read or written means that the next load measures again.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch

from bot.models.hardware import Hardware
from bot.models.packing import FORMATS, Product

FILE = "cpu-formats.json"
LIMIT_S = 2.0
"""Most seconds of a measurement, packing included."""
TOKENS = (1, 8)
"""Tokens in a measured product: one conversation, and the eight that a busy bot has."""
LAYERS = (
    (3, ((576, 960), (576, 576), (576, 3072), (1536, 576))),  # SmolLM2-135M
    (1, ((1024, 4096), (2048, 1024), (1024, 6144), (3072, 1024))),  # Qwen3-0.6B
)
"""Number of decoder layers of two models, and the input and output sizes of each one's fused linear layers.

In two formats they take 105 MB, more than most caches hold, as the weights of a whole model do. FBGEMM packs 60 million
weights a second.
"""
LEAST_ROUNDS = 8
CLEARLY = 0.95
"""bfloat16 is used if it takes less than this share of float16's time, since its answers differ more from float32's."""

Times = Mapping[str, Sequence[float]]
"""Milliseconds by dtype, one for each number of TOKENS."""

log = logging.getLogger(__name__)


def measured(hardware: Hardware, cache_dir: Path, begin: Callable[[], None] = lambda: None) -> Hardware:
    """Order `packs` by the recorded times, or measure and record them if it has several.

    begin: called before a measurement. Without a clear result the order stays as it is, and the next load measures
    again.
    """
    formats, cpu = hardware.packs, hardware.cpu
    if len(formats) < 2:
        return hardware
    if order := recorded(formats, cpu, cache_dir):
        return replace(hardware, packs=order)
    begin()
    times = measure(formats)
    if times is None:
        log.info("The machine is too busy to compare the formats of linear layers; %s is used.", formats[0])
        return hardware
    order = _order(times)
    details = "; ".join(f"{name} {' and '.join(f'{ms:.1f}' for ms in each)} ms" for name, each in times.items())
    log.info(
        "Linear layers in %s are used on %s (%d threads), measured at %s tokens: %s.",
        order[0],
        cpu,
        torch.get_num_threads(),
        " and ".join(map(str, TOKENS)),
        details,
    )
    _record(times, cpu, cache_dir)
    return replace(hardware, packs=order)


def recorded(formats: Sequence[str], cpu: str, cache_dir: Path) -> tuple[str, ...]:
    """Order formats by the times recorded for this processor; () without a valid record of all of them."""
    times = _records(cache_dir).get(_key(cpu))
    if not isinstance(times, dict) or not all(_are_times(times.get(name)) for name in formats):
        return ()
    return _order({name: times[name] for name in formats})


def measure(
    formats: Sequence[str], limit_s: float = LIMIT_S, clock: Callable[[], float] = perf_counter
) -> Times | None:
    """Measure the time of LAYERS in each format, alternating: the least of many rounds.

    Returns None if two halves of the rounds disagree about the order, as on a busy machine, or if they are too few.
    """
    deadline = clock() + limit_s
    layers: dict[tuple[str, int], list[tuple[Product, int]]] = {}
    for number, (count, shapes) in enumerate(LAYERS):
        for name in formats:
            layers[name, number] = []
            for inputs, outputs in shapes:
                if clock() > deadline:
                    return None
                weight = torch.full((outputs, inputs), 0.01, dtype=FORMATS[name].source)
                layers[name, number] += [(FORMATS[name].product(weight, None), inputs) for _ in range(count)]
    rounds: list[dict[tuple[str, int, int], float]] = []
    while clock() <= deadline:
        rounds.append({})
        for tokens in TOKENS:
            for (name, number), products in layers.items():
                lines = [torch.ones(1, tokens, inputs, dtype=FORMATS[name].source) for _, inputs in products]
                began = clock()
                for (product, _), line in zip(products, lines, strict=True):
                    product(line)
                rounds[-1][name, tokens, number] = 1000 * (clock() - began)
    if len(rounds) < LEAST_ROUNDS:
        return None
    halves = [_least(rounds[start::2], formats) for start in (0, 1)]
    return _least(rounds, formats) if _order(halves[0]) == _order(halves[1]) else None


def _least(rounds: Sequence[Mapping[tuple[str, int, int], float]], formats: Sequence[str]) -> Times:
    """The least times of all rounds; of the models in LAYERS the geometric mean, so that both count the same."""

    def least(name: str, tokens: int) -> float:
        times = [min(each[name, tokens, number] for each in rounds) for number in range(len(LAYERS))]
        return round(math.prod(times) ** (1 / len(times)), 3)

    return {name: [least(name, tokens) for tokens in TOKENS] for name in formats}


def _order(times: Times) -> tuple[str, ...]:
    def cost(name: str) -> float:
        return math.prod(times[name]) ** (1 / len(TOKENS)) * (1 if name == "float16" else 1 / CLEARLY)

    return tuple(sorted(times, key=cost))


def _key(cpu: str) -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{cpu}, {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _records(cache_dir: Path) -> dict[str, object]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((cache_dir / FILE).read_text("utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _are_times(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(TOKENS)
        and all(isinstance(each, int | float) and 0 < each < math.inf for each in value)
    )


def _record(times: Times, cpu: str, cache_dir: Path) -> None:
    file = cache_dir / f"{FILE}.{os.getpid()}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_records(cache_dir) | {_key(cpu): times}, indent=2), "utf-8")
        file.replace(cache_dir / FILE)
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        log.info("The measured times could not be kept, and the next load measures again: %s", error)
