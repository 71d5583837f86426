"""Tests hardware detection, which models fit, and the table of both."""

import asyncio
import io
import os
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bot.config.settings import load_settings
from bot.models import hardware as hardware_module
from bot.models.catalog import Catalog
from bot.models.control_groups import memory
from bot.models.fit import Verdict, fits, kv_mb
from bot.models.hardware import Hardware, choose_dtype, describe_hardware, detect, is_packed, probe
from bot.models.model_spec import ModelSpec
from bot.models.model_table import best, details, human, notes, overview, rows
from bot.types.errors import ModelError
from tests.support.builders.processors import ENGINES, PROCESSORS, capabilities

LAPTOP = Hardware("", "", 0, 0, False, "A CPU", 8, 16_000, 12_000, "no GPU was found")
CARD = Hardware("A GPU", "13.0", 24_000, 23_500, True, "A CPU", 16, 64_000, 60_000)
OLD_CARD = replace(CARD, gpu="An old GPU", bf16=False)

CATALOG = Catalog.of(load_settings())
PHI4 = CATALOG.get("phi-4")
SMALL = CATALOG.get("smollm2")


async def test_the_cpu_is_used_for_a_reason(tmp_path: Path) -> None:
    seen = await probe("cpu", tmp_path)
    assert seen.device == "cpu"
    assert seen.why_cpu == "it was asked for"
    assert seen.cpu
    assert 1 <= seen.cores <= (os.cpu_count() or 1)
    assert seen.ram_total_mb == memory()[1] >> 20
    assert "The CPU is used: it was asked for." in describe_hardware(seen)


async def test_a_gpu_that_is_asked_for_and_not_there_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (await probe("auto", tmp_path)).why_cpu.startswith(("this build of torch", "no GPU was found"))
    with pytest.raises(ModelError, match=r"INHOUSE_DEVICE=cuda needs a GPU, and none can be used"):
        await probe("cuda", tmp_path)


async def test_a_cancelled_probe_ends_at_once(tmp_path: Path) -> None:
    others = psutil.Process().children()
    looking = asyncio.create_task(probe("cpu", tmp_path))
    async with asyncio.timeout(20):
        while not (children := [child for child in psutil.Process().children() if child not in others]):  # noqa: ASYNC110 -- another process
            await asyncio.sleep(0.01)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert not any(child.is_running() for child in children)


def test_a_gpu_is_described_with_cuda_and_memory() -> None:
    assert describe_hardware(CARD).startswith("GPU: A GPU, CUDA 13.0, 24,000 MB VRAM, 23,500 MB free\n")


@pytest.mark.parametrize(
    ("setting", "hardware", "dtype"),
    [
        ("auto", CARD, "bfloat16"),
        ("auto", OLD_CARD, "float16"),
        ("bfloat16", LAPTOP, "bfloat16"),
        ("float32", CARD, "float32"),
    ],
)
def test_the_number_type_suits_the_hardware(setting: str, hardware: Hardware, dtype: str) -> None:
    assert choose_dtype(setting, hardware) == dtype


CHOICES = {
    "none": ("float32", "float32"),
    "sse4": ("float32", "float32"),
    "avx": ("float32", "float32"),
    "avx2": ("packed float16", "float32"),
    "avx512": ("packed float16", "float32"),
    "avx512_vnni": ("packed float16", "float32"),
    "avx512_bf16": ("packed float16", "bfloat16"),
    "amx": ("packed bfloat16", "bfloat16"),
    "amx_fp16": ("packed bfloat16", "bfloat16"),
    "neon": ("float32", "float32"),
    "neon_bf16": ("bfloat16", "bfloat16"),
}
"""For each CPU: the dtype of `auto` for plain weights, and for quantized ones."""


def test_every_processor_has_its_choice() -> None:
    assert CHOICES.keys() == PROCESSORS.keys()


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_number_type_suits_the_processor(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware_module, "cpu_capabilities", lambda: capabilities(processor))
    seen = detect("cpu")
    chosen = []
    for quantization in ("none", "4bit"):
        dtype = choose_dtype("auto", seen, quantization)
        chosen.append(f"packed {dtype}" if is_packed(dtype, seen, quantization) else dtype)
    assert tuple(chosen) == CHOICES[processor]
    able = capabilities(processor)
    asked = [is_packed(dtype, seen) for dtype in ("float16", "bfloat16")]
    assert asked == [able.fbgemm, able.onednn and able.bf16], "a dtype that was asked for"
    assert choose_dtype("float32", seen) == "float32"


@pytest.mark.parametrize(("processor", "dtype"), [("avx2", "float32"), ("avx512_bf16", "bfloat16")])
def test_a_build_of_torch_without_fbgemm_packs_no_float16(
    processor: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [name for name in ENGINES["x86_64"] if name != "fbgemm"]
    monkeypatch.setattr(hardware_module, "cpu_capabilities", lambda: capabilities(processor, engines))
    seen = detect("cpu")
    assert (choose_dtype("auto", seen), is_packed("float16", seen)) == (dtype, False)


@pytest.mark.parametrize(
    ("spec", "hardware", "quantization", "layers", "verdict"),
    [
        (SMALL, LAPTOP, "none", None, Verdict.FITS),
        (SMALL, CARD, "none", None, Verdict.FITS),
        (PHI4, CARD, "none", None, Verdict.WONT_FIT),
        (PHI4, CARD, "8bit", None, Verdict.FITS),
        (PHI4, CARD, "4bit", None, Verdict.FITS),
        (PHI4, CARD, "none", 20, Verdict.FITS),
        (PHI4, CARD, "none", 0, Verdict.FITS),
        (PHI4, LAPTOP, "none", None, Verdict.WONT_FIT),
        (PHI4, replace(CARD, ram_total_mb=8_000, ram_free_mb=6_000), "none", 20, Verdict.WONT_FIT),
        (PHI4, replace(CARD, vram_free_mb=500), "4bit", None, Verdict.TIGHT),
        (PHI4, replace(CARD, vram_free_mb=11_500), "4bit", None, Verdict.TIGHT),
        (
            PHI4,
            replace(CARD, ram_free_mb=9_000, vram_total_mb=16_000, vram_free_mb=14_500),
            "none",
            20,
            Verdict.WONT_FIT,
        ),
    ],
)
def test_verdicts(spec: ModelSpec, hardware: Hardware, quantization: str, layers: int | None, verdict: Verdict) -> None:
    fit = fits(spec, hardware, "auto", quantization, layers)
    assert fit.verdict == verdict, fit.sentence
    assert f"{fit.needed_mb:,} MB" in fit.sentence
    assert spec.name in fit.sentence


def test_a_model_of_unknown_size_has_no_verdict() -> None:
    fit = fits(ModelSpec(name="acme/x", repo="acme/x"), CARD)
    assert fit.verdict == Verdict.UNKNOWN
    assert "not known before it is fetched" in fit.sentence


def test_the_cache_is_counted_as_it_is_set() -> None:
    assert fits(SMALL, LAPTOP, kv_cache_mb=2512).needed_mb - fits(SMALL, LAPTOP).needed_mb == 2000
    assert kv_mb(SMALL, "bfloat16", 8192) == 8192 * 23_040 >> 20


HARDWARE = st.builds(
    replace,
    st.sampled_from([LAPTOP, CARD, OLD_CARD]),
    vram_free_mb=st.integers(0, 24_000),
    ram_free_mb=st.integers(0, 16_000),
)


@given(
    hardware=HARDWARE,
    spec=st.sampled_from([spec for spec in CATALOG if not spec.engines]),
    quantization=st.sampled_from(["none", "8bit", "4bit"]),
    layers=st.none() | st.integers(0, 60),
    more=st.integers(1, 10**11),
)
def test_a_larger_model_never_fits_better(
    hardware: Hardware, spec: ModelSpec, quantization: str, layers: int | None, more: int
) -> None:
    order = [Verdict.FITS, Verdict.TIGHT, Verdict.WONT_FIT]
    larger = spec.model_copy(update={"parameters": spec.parameters + more})
    one = fits(spec, hardware, "auto", quantization, layers)
    two = fits(larger, hardware, "auto", quantization, layers)
    assert order.index(one.verdict) <= order.index(two.verdict)
    assert one.needed_mb > 0


def test_there_is_a_row_for_every_model_and_no_table_exceeds_80_columns() -> None:
    found = rows(CATALOG, CARD, load_settings(), {"smollm2": Path()})
    assert [row.spec.name for row in found][:2] == ["smollm2", "qwen3-1.7b"]
    assert len(found) == len(CATALOG.names)
    fp32, bf16, fp16, eight, four = next(row.memory_mb for row in found if row.spec.name == "phi-4")
    assert fp32 > bf16 == fp16 > eight > four
    console = Console(width=200, record=True, file=io.StringIO())
    for table in (overview(found, CARD), *details(found)):
        console.print(table)
    shown = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, shown)) <= 80
    assert next(line.split() for line in shown if line.startswith("phi-4 "))[1:] == [
        "29.3",
        "GB",
        "31.1",
        "GB",
        "GPU",
        "no",
    ]


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        (replace(LAPTOP, packs=("float16",)), "qwen3-1.7b"),
        (CARD, "qwen3-4b-instruct-2507"),
        (replace(LAPTOP, ram_total_mb=4000, ram_free_mb=3000), "smollm2"),
        (replace(LAPTOP, ram_total_mb=900, ram_free_mb=600), ""),
    ],
)
def test_the_best_model_fits_is_general_and_needs_no_permission(hardware: Hardware, name: str) -> None:
    found = rows(CATALOG, hardware, load_settings())
    chosen = best(found, hardware)
    assert (chosen.spec.name if chosen else "") == name
    assert any("slow" in note for note in notes(found, hardware)) == bool(hardware.packs)


@pytest.mark.parametrize(("share", "spread"), [(0.1, 1), (0.5, 2), (1.0, 4)])
def test_the_speed_of_a_cpu_does_not_depend_on_what_else_runs(
    share: float, spread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """share: of the time that this process gets. spread: threads that compute; this one waits for the others."""
    monkeypatch.setattr("torch.get_num_threads", lambda: spread)
    monkeypatch.setattr(hardware_module, "READ_MB", 8)
    steps = {"perf_counter": 0.5 / share, "thread_time": 0.5, "process_time": 0.5 * spread}
    clocks = {name: partial(next, count(0.0, step)) for name, step in steps.items()}
    monkeypatch.setattr(hardware_module, "time", SimpleNamespace(**clocks))
    assert hardware_module.read_speed("cpu") == pytest.approx(8 * 2**20 / 0.5 / 1e9)


@pytest.mark.parametrize("hardware", [LAPTOP, CARD, OLD_CARD])
def test_an_idle_machine_is_the_same_whatever_runs_now(hardware: Hardware) -> None:
    idle = hardware.idle
    assert replace(hardware, vram_free_mb=7, ram_free_mb=9).idle == idle
    assert idle.vram_free_mb <= idle.vram_total_mb
    assert 0 < idle.ram_free_mb < idle.ram_total_mb


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (272_600_000, "272.6 MB"), (29.3e9, "29.3 GB")]
)
def test_numbers_for_people(amount: float, text: str) -> None:
    assert human(amount, "B") == text
