"""Tests the measured choice of the linear layers' format: kept on disk, within a time limit, never an error."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bot.models import format_choice, loading
from bot.models.format_choice import FILE, LAYERS, TOKENS, measure, measured, recorded
from bot.models.hardware import Hardware, choose_dtype, cpu_capabilities, detect
from bot.models.packing import Format
from bot.types.engine import ModelSource
from tests.support.builders.tiny_models import make_tiny

BOTH = ("float16", "bfloat16")
XEON = Hardware("", "", 0, 0, True, "A Xeon", 8, 16_000, 12_000, why_cpu="there is none", packs=BOTH)
RUNS_BOTH = pytest.mark.skipif(
    set(cpu_capabilities().packs) != set(BOTH), reason="both formats need an x86 processor with bfloat16 instructions"
)
BFLOAT16_FIRST = {"float16": [1.5, 3.0], "bfloat16": [2.0, 2.0]}


class Clock:
    """Seconds that pass only in products. seconds: those of a product by dtype and by how many have been computed."""

    def __init__(self, seconds: Callable[[str, int], float]) -> None:
        self.now, self.products = 0.0, 0
        self._seconds = seconds

    def __call__(self) -> float:
        return self.now

    def formats(self) -> dict[str, Format]:
        return {name: Format(torch.float32, partial(self._product, name)) for name in BOTH}

    def _product(self, name: str, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        self.now += 0.001

        def compute(line: Tensor) -> Tensor:
            self.products += 1
            self.now += self._seconds(name, self.products)
            return line

        return compute


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The formats of each measurement; all of them find bfloat16 faster."""
    made: list[tuple[str, ...]] = []

    def found(formats: tuple[str, ...]) -> dict[str, list[float]]:
        made.append(formats)
        return BFLOAT16_FIRST

    monkeypatch.setattr(format_choice, "measure", found)
    return made


def test_the_result_is_read_back(measurements: list[tuple[str, ...]], tmp_path: Path) -> None:
    cache = tmp_path / "not made yet"
    assert measured(XEON, cache).packs == ("bfloat16", "float16")
    assert measured(XEON, cache).packs == recorded(BOTH, "A Xeon", cache) == ("bfloat16", "float16")
    assert measurements == [BOTH], "measured once"
    assert choose_dtype("auto", measured(XEON, cache)) == "bfloat16"
    assert choose_dtype("float16", measured(XEON, cache)) == "float16"


def test_another_processor_or_number_of_threads_is_measured_again(
    measurements: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(XEON, tmp_path)
    measured(replace(XEON, cpu="A Ryzen"), tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    measured(XEON, tmp_path)
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    measured(XEON, tmp_path)
    assert len(measurements) == 4
    measured(XEON, tmp_path)
    assert len(measurements) == 4
    monkeypatch.undo()
    assert recorded(BOTH, "A Xeon", tmp_path), "the first one is still there"


@pytest.mark.parametrize("packs", [(), ("float16",), ("bfloat16",)])
def test_where_there_is_no_choice_nothing_is_measured(
    measurements: list[tuple[str, ...]], tmp_path: Path, packs: tuple[str, ...]
) -> None:
    hardware = replace(XEON, packs=packs)
    assert measured(hardware, tmp_path) == hardware
    assert not measurements
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "times",
    [
        None,
        3,
        [],
        {},
        {"float16": [1.0, 2.0]},
        {"float16": [1.0, 2.0], "bfloat16": [1.0]},
        {"float16": [1.0, 2.0], "bfloat16": [1.0, "2"]},
        {"float16": [1.0, 2.0], "bfloat16": [1.0, -2.0]},
        {"float16": [1.0, 2.0], "bfloat16": [1.0, math.nan]},
        {"float16": [1.0, 2.0], "bfloat16": [1.0, math.inf]},
    ],
)
def test_an_invalid_record_is_measured_again(
    measurements: list[tuple[str, ...]], tmp_path: Path, times: object
) -> None:
    measured(XEON, tmp_path)
    (key,) = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({key: times}))
    assert measured(XEON, tmp_path).packs == ("bfloat16", "float16")
    assert len(measurements) == 2
    assert recorded(BOTH, "A Xeon", tmp_path) == ("bfloat16", "float16")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_broken_file_is_measured_again(measurements: list[tuple[str, ...]], tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert recorded(BOTH, "A Xeon", tmp_path) == ()
    assert measured(XEON, tmp_path).packs == recorded(BOTH, "A Xeon", tmp_path) == ("bfloat16", "float16")
    assert len(measurements) == 1


@pytest.mark.parametrize("place", ["a file", "a directory of that name"])
def test_a_cache_that_cannot_be_written_is_no_error(
    measurements: list[tuple[str, ...]], tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    if place == "a file":
        cache.write_text("")
    else:
        (cache / FILE).mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert measured(XEON, cache).packs == ("bfloat16", "float16")
    assert len(measurements) == 2
    assert "could not be kept" in caplog.text


def test_the_choice_is_logged_in_a_line(
    measurements: list[tuple[str, ...]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        measured(XEON, tmp_path)
        measured(XEON, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"Linear layers in bfloat16 are used on A Xeon ({torch.get_num_threads()} threads), measured at 1 and 8 tokens:"
        " float16 1.5 and 3.0 ms; bfloat16 2.0 and 2.0 ms."
    ]


@pytest.mark.parametrize(
    ("bfloat16", "first"),
    [(0.5, "bfloat16"), (0.94, "bfloat16"), (0.97, "float16"), (1.0, "float16"), (2.0, "float16")],
)
def test_bfloat16_is_used_where_it_is_clearly_faster(
    bfloat16: float, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(lambda name, _: bfloat16 * 1e-3 if name == "bfloat16" else 1e-3)
    monkeypatch.setattr(format_choice, "FORMATS", clock.formats())
    monkeypatch.setattr(format_choice, "measure", lambda formats: measure(formats, 2.0, clock))
    for packs in (BOTH, BOTH[::-1]):
        assert measured(replace(XEON, packs=packs), tmp_path / packs[0]).packs[0] == first


@pytest.mark.parametrize("product_s", [1e-4, 1e-3, 0.02, 0.5, 3.0])
def test_a_measurement_ends_with_its_limit(product_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lambda name, _: product_s)
    monkeypatch.setattr(format_choice, "FORMATS", clock.formats())
    times = measure(BOTH, 2.0, clock)
    a_round = len(BOTH) * len(TOKENS) * sum(layers * len(shapes) for layers, shapes in LAYERS)
    assert clock.now < 2.0 + a_round * product_s
    assert (times is None) == (product_s * a_round * format_choice.LEAST_ROUNDS > 2.0)


def test_packing_counts_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lambda name, _: 1e-3)
    monkeypatch.setattr(format_choice, "FORMATS", clock.formats())
    assert measure(BOTH, 0.003, clock) is None
    assert clock.products == 0
    assert clock.now < 0.01


def test_a_busy_machine_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every other round something else takes the time of one format."""
    a_round = len(BOTH) * len(TOKENS) * sum(layers * len(shapes) for layers, shapes in LAYERS)
    clock = Clock(lambda name, number: 1e-3 * (1 + 4 * ((number - 1) // a_round % 2 == BOTH.index(name))))
    monkeypatch.setattr(format_choice, "FORMATS", clock.formats())
    monkeypatch.setattr(format_choice, "measure", lambda formats: measure(formats, 2.0, clock))
    with caplog.at_level(logging.INFO):
        assert measured(XEON, tmp_path) == XEON
    assert clock.now >= 2.0, "not for want of time"
    assert not list(tmp_path.iterdir())
    assert "too busy" in caplog.text


@RUNS_BOTH
def test_this_processor_is_measured_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_choice, "CLEARLY", 1e-6)  # the same order on any machine, however busy
    monkeypatch.setattr(format_choice, "LEAST_ROUNDS", 2)
    here = detect("cpu")
    assert measured(here, tmp_path).packs == BOTH
    ((key, times),) = json.loads((tmp_path / FILE).read_text()).items()
    assert here.cpu in key
    assert all(ms > 0 for each in times.values() for ms in each)
    assert measured(replace(here, packs=BOTH[::-1]), tmp_path).packs == BOTH
    assert detect("cpu", cache_dir=tmp_path).packs == BOTH


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("tiny"))


@RUNS_BOTH
@pytest.mark.parametrize("dtype", ["auto", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "8bit"])
def test_a_load_measures_where_the_dtype_is_left_to_it(
    measurements: list[tuple[str, ...]],
    llama: Path,
    tmp_path: Path,
    dtype: str,
    quantization: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "SMALL_BYTES", 0)
    source = ModelSource(
        "tiny", str(llama), device="cpu", dtype=dtype, quantization=quantization, cache_dir=str(tmp_path)
    )
    stages: list[str] = []
    loaded = loading.load(source, lambda progress: stages.append(progress.stage))
    measures = (dtype, quantization) == ("auto", "none")
    assert len(measurements) == measures
    assert ("measuring the processor" in stages) == measures
    assert loaded.dtype == ("bfloat16" if measures else choose_dtype(dtype, loaded.hardware, quantization))
    stages.clear()
    assert loading.load(source, lambda progress: stages.append(progress.stage)).dtype == loaded.dtype
    assert "measuring the processor" not in stages
    assert len(measurements) == measures, "the second load reads the record"


@RUNS_BOTH
def test_a_small_model_uses_the_record_and_measures_nothing(
    measurements: list[tuple[str, ...]], llama: Path, tmp_path: Path
) -> None:
    source = ModelSource("tiny", str(llama), device="cpu", cache_dir=str(tmp_path))
    assert loading.load(source, lambda _: None).dtype == cpu_capabilities().packs[0]
    assert not measurements
    measured(detect("cpu"), tmp_path)
    assert loading.load(source, lambda _: None).dtype == "bfloat16"


@RUNS_BOTH
def test_without_a_cache_directory_the_instructions_decide(
    measurements: list[tuple[str, ...]], llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "SMALL_BYTES", 0)
    loaded = loading.load(ModelSource("tiny", str(llama), device="cpu"), lambda _: None)
    assert loaded.dtype == cpu_capabilities().packs[0]
    assert not measurements
