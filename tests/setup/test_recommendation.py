"""Tests which model is recommended for a machine, why, and the estimate of its speed."""

from dataclasses import replace
from pathlib import Path

import pytest

from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.models.decode_speed import speed
from bot.models.hardware import MB, Hardware, detect
from bot.models.model_table import Row, rows
from bot.setup.recommendation import recommend

LAPTOP = Hardware(
    "", "", 0, 0, False, "Ryzen", 8, 16_000, 12_000, why_cpu="there is none", packs=("float16",), read_gb_s=20.0
)
H100 = Hardware("H100", "13.0", 81_000, 80_000, True, "Xeon", 26, 200_000, 190_000, read_gb_s=2932.0)
PLENTY = 10**12


def found(hardware: Hardware, *here: str) -> dict[str, Row]:
    settings = load_settings()
    return {row.spec.name: row for row in rows(Catalog.of(settings), hardware, settings, dict.fromkeys(here, Path()))}


@pytest.mark.parametrize(
    ("hardware", "here", "disk", "name", "why"),
    [
        (LAPTOP, (), PLENTY, "qwen3-1.7b", "without a GPU, models above 2 billion parameters are slow"),
        (H100, (), PLENTY, "phi-4", "fits the GPU's memory"),
        (H100, (), 10 * 10**9, "qwen3-4b-instruct-2507", "needs 29.3 GB, and 10.0 GB are free"),
        (H100, ("phi-4",), 0, "phi-4", "fits the GPU's memory"),
        (replace(LAPTOP, read_gb_s=4.0), (), PLENTY, "smollm2", "gives 3 tokens/s or more"),
        (replace(LAPTOP, read_gb_s=0.2), (), PLENTY, "smollm2", "every model is slow"),
        (replace(LAPTOP, ram_total_mb=3000, ram_free_mb=1000), (), PLENTY, "smollm2", "needs the least"),
    ],
)
def test_the_best_model_for_memory_and_disk(
    hardware: Hardware, here: tuple[str, ...], disk: int, name: str, why: str
) -> None:
    advice = recommend(list(found(hardware, *here).values()), hardware, disk)
    assert advice is not None
    assert advice.row.spec.name == name
    assert why in advice.why


@pytest.mark.parametrize(("ram", "disk"), [(600, PLENTY), (12_000, 10_000_000)])
def test_nothing_is_recommended_where_nothing_fits(ram: int, disk: int) -> None:
    hardware = replace(LAPTOP, ram_total_mb=ram, ram_free_mb=ram)
    assert recommend(list(found(hardware).values()), hardware, disk) is None


@pytest.mark.parametrize(
    ("hardware", "model", "measured"),
    [(H100, "phi-4", 17.0), (H100, "mistral-7b-instruct-v0.3", 27.8), (LAPTOP, "smollm2", 49.2)],
)
def test_the_estimate_is_near_what_was_measured(hardware: Hardware, model: str, measured: float) -> None:
    estimate = found(hardware)[model].way.tokens_s
    assert 0.7 * measured < estimate < 1.3 * measured


def test_an_unmeasured_memory_gives_no_estimate() -> None:
    hardware = replace(LAPTOP, read_gb_s=0.0)
    assert speed(found(hardware)["smollm2"].way.tokens_s) == "?"


@pytest.mark.parametrize(
    ("tokens_s", "text"),
    [(0.3, "under 1"), (3.4, "3"), (17.2, "17"), (48.0, "50")],
)
def test_speeds_are_no_more_precise_than_they_are_known(tokens_s: float, text: str) -> None:
    assert speed(tokens_s) == text


def test_this_machines_memory_is_measured_only_on_request() -> None:
    assert detect("cpu").read_gb_s == 0
    assert detect("cpu", measure=True).read_gb_s * 1e9 > MB
