"""Tests the fit of models whose weights are stored quantized, for each engine, and the facts of their files."""

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from bot.config.settings import Settings, load_settings
from bot.models.catalog import Catalog
from bot.models.fit import CONVERSATION_TOKENS, LLAMA_RUNTIME_MB, VLLM_SHARE, Fit, Verdict, fits, kv_mb
from bot.models.hardware import MB, Hardware
from bot.models.installed_models import InstalledModels
from bot.models.model_files import describe, described
from bot.models.model_spec import ModelSpec
from bot.models.model_table import as_json, overview, rows
from bot.models.runtime_config import RuntimeConfig
from bot.models.safetensors_header import read_tensors
from bot.types.errors import ConfigError, ModelError
from tests.support.builders.gguf_files import KV_HEADS, LAYERS, WINDOW, write_gguf, write_split

LAPTOP = Hardware("", "", 0, 0, False, "A CPU", 8, 16_000, 12_000, "no GPU was found")
CARD = Hardware("A GPU", "13.0", 24_000, 23_500, True, "A CPU", 16, 64_000, 60_000)
SHAPE = {"layers": 40, "kv_heads": 10, "head_dim": 128, "context_window": 16_384}
PHI4_Q4 = ModelSpec(
    name="phi-4-q4_k_m", repo="acme/phi", file="Q4_K_M", quantization="Q4_K_M", download=9_050_000_000,
    parameters=14_659_507_200, **SHAPE,  # type: ignore[arg-type]
)  # fmt: skip
PHI4_AWQ = PHI4_Q4.model_copy(update={"name": "phi-4-awq", "file": "", "quantization": "awq"})
PHI4_FP8 = PHI4_AWQ.model_copy(update={"quantization": "fp8", "download": 15_700_000_000})
PHI4 = PHI4_AWQ.model_copy(update={"name": "phi-4", "quantization": "", "download": 29_328_000_000})

LAYER = {
    "awq": {
        "q.qweight": torch.zeros(64, 8, dtype=torch.int32),
        "q.qzeros": torch.zeros(1, 8, dtype=torch.int32),
        "q.scales": torch.zeros(1, 64, dtype=torch.float16),
    },
    "compressed-tensors": {
        "q.weight_packed": torch.zeros(64, 8, dtype=torch.int32),
        "q.weight_scale": torch.zeros(64, 1, dtype=torch.bfloat16),
        "q.weight_shape": torch.zeros(2, dtype=torch.int64),
    },
    "bitsandbytes": {
        "q.weight": torch.zeros(2048, 1, dtype=torch.uint8),
        "q.weight.absmax": torch.zeros(64, dtype=torch.uint8),
        "q.weight.quant_map": torch.zeros(16),
        "q.weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    },
    "mxfp4": {
        "q_blocks": torch.zeros(64, 2, 16, dtype=torch.uint8),
        "q_scales": torch.zeros(64, 2, dtype=torch.uint8),
    },
    "fp8": {
        "q.weight": torch.zeros(64, 64, dtype=torch.float8_e4m3fn),
        "q.weight_scale_inv": torch.zeros(2, 2),
    },
}
"""A matrix of 64 x 64 as each format stores it."""


def write_directory(folder: Path, method: str, tensors: Mapping[str, torch.Tensor] | None = None) -> Path:
    """Writes a model directory with one quantized matrix, and an unquantized one of 10 x 64."""
    folder.mkdir()
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "max_position_embeddings": 512}
    config = shape | {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"head": torch.zeros(10, 64), **(tensors or LAYER[method])}, folder / "model.safetensors")
    return folder


def local(path: Path, **settings: object) -> ModelSpec:
    catalog = Catalog.of(load_settings(model=str(path), **settings))
    return catalog.get(catalog.default)


def for_engine(engine: str) -> Settings:
    return load_settings().model_copy(update={"engine": engine})


@pytest.mark.parametrize("method", LAYER)
def test_parameters_of_each_format(tmp_path: Path, method: str) -> None:
    spec = local(write_directory(tmp_path / "model", method))
    assert spec.parameters == 64 * 64 + 640
    assert spec.quantization == method
    assert spec.download == (tmp_path / "model" / "model.safetensors").stat().st_size


@pytest.mark.parametrize(("bits", "place"), [(8, "bits"), (8, "groups"), (2, "bits")])
def test_other_widths_are_read_from_the_config(tmp_path: Path, bits: int, place: str) -> None:
    folder = write_directory(tmp_path / "model", "awq")
    groups = {"config_groups": {"group_0": {"weights": {"num_bits": bits}}}}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= {"bits": bits} if place == "bits" else groups
    (folder / "config.json").write_text(json.dumps(config))
    assert local(folder).parameters == 64 * 8 * 32 // bits + 640


@pytest.mark.parametrize(
    ("spec", "hardware", "engine", "words", "says"),
    [
        (PHI4_Q4, CARD, "llama.cpp", "fits", "GPU memory in Q4_K_M"),
        (PHI4_Q4, LAPTOP, "llama.cpp", "fits", "RAM in Q4_K_M"),
        (PHI4_Q4, CARD, "auto", "needs llama.cpp", "set INHOUSE_ENGINE=llama.cpp."),
        (PHI4_Q4, CARD, "vllm", "needs llama.cpp", "set INHOUSE_ENGINE=llama.cpp."),
        (PHI4_AWQ, CARD, "vllm", "fits", "GPU memory in awq"),
        (PHI4_AWQ, CARD, "auto", "needs vllm", "INHOUSE_ENGINE=vllm may run them"),
        (PHI4_AWQ, CARD, "llama.cpp", "needs a GGUF file", "owner/repo:Q4_K_M"),
        (PHI4_AWQ, LAPTOP, "auto", "needs a GPU", "a GGUF file of it with INHOUSE_ENGINE=llama.cpp"),
        (PHI4_AWQ, LAPTOP, "vllm", "needs a GPU", "a GGUF file of it with INHOUSE_ENGINE=llama.cpp"),
        (PHI4_FP8, CARD, "vllm", "fits", "in fp8"),
        (PHI4_FP8, CARD, "auto", "won't fit", "in bfloat16"),  # expanded
        (PHI4, CARD, "vllm", "won't fit", "in bfloat16"),
        (PHI4, CARD, "llama.cpp", "needs a GGUF file", "INHOUSE_ENGINE=auto"),
        (ModelSpec(name="x", repo="a/b", file="Q4_K_M"), CARD, "llama.cpp", "unknown", "before it is fetched"),
    ],
)
def test_verdicts(spec: ModelSpec, hardware: Hardware, engine: str, words: str, says: str) -> None:
    fit = fits(spec, hardware, engine=engine)
    assert fit.words == words
    assert says in fit.sentence
    assert (fit.verdict is Verdict.NEEDS) == bool(fit.needs)


def test_a_gguf_file_needs_its_weights_cache_and_buffers() -> None:
    cache = kv_mb(PHI4_Q4, "float16", CONVERSATION_TOKENS)
    assert cache == 2 * 40 * 10 * 128 * 2 * 4096 // MB
    assert fits(PHI4_Q4, CARD, engine="llama.cpp").needed_mb == 9_050_000_000 // MB + cache + LLAMA_RUNTIME_MB


def test_llama_cpp_moves_layers_to_ram() -> None:
    large = PHI4_Q4.model_copy(update={"download": 40_000_000_000})
    fit = fits(large, CARD, engine="llama.cpp")
    assert (fit.verdict, "keeps the other layers in RAM, which is slow" in fit.sentence) == (Verdict.TIGHT, True)
    assert fits(large.model_copy(update={"download": 90_000_000_000}), CARD, engine="llama.cpp").words == "won't fit"
    assert fits(large, CARD, gpu_layers=10, engine="llama.cpp").verdict is Verdict.FITS
    assert fits(large, CARD, gpu_layers=0, engine="llama.cpp").verdict is Verdict.FITS
    assert fits(large, CARD, gpu_layers=40, engine="llama.cpp").verdict is Verdict.WONT_FIT


def test_layers_in_ram_keep_the_size_in_which_they_are_stored() -> None:
    stored = PHI4_AWQ.model_copy(update={"quantization": "fbgemm_fp8"})
    whole, half = fits(stored, CARD), fits(stored, CARD, gpu_layers=20)
    assert "GPU memory in fbgemm_fp8" in half.sentence
    assert whole.needed_mb - stored.download // MB // 2 < half.needed_mb < whole.needed_mb


def test_vllm_takes_its_share_of_the_card() -> None:
    assert fits(PHI4_AWQ, CARD, engine="vllm").available_mb == int(24_000 * VLLM_SHARE)
    busy = fits(PHI4_AWQ, replace(CARD, vram_free_mb=20_000), engine="vllm")
    assert (busy.verdict, "vLLM takes 21,600 MB, and only 20,000 are free" in busy.sentence) == (Verdict.TIGHT, True)
    told = fits(PHI4_AWQ, replace(CARD, vram_free_mb=20_000), kv_cache_mb=2000, engine="vllm")
    assert told.verdict is Verdict.FITS, "with a KV cache of a fixed size it takes no more"
    large = PHI4_AWQ.model_copy(update={"download": 22_000_000_000})
    assert fits(large, CARD, engine="vllm").verdict is Verdict.WONT_FIT, "although the card has 24,000 MB"


@given(
    st.sampled_from([PHI4_Q4, PHI4_AWQ, PHI4_FP8, PHI4]),
    st.sampled_from([CARD, LAPTOP]),
    st.sampled_from(["auto", "vllm", "llama.cpp"]),
    st.integers(1, 10**12),
    st.none() | st.integers(0, 60),
)
def test_a_larger_model_fits_no_better(
    spec: ModelSpec, hardware: Hardware, engine: str, size: int, layers: int | None
) -> None:
    def fit(size: int) -> Fit:
        changed = spec.model_copy(update={"download": size, "parameters": size})
        return fits(changed, hardware, gpu_layers=layers, engine=engine)

    one, two = fit(size), fit(2 * size)
    order = [Verdict.FITS, Verdict.TIGHT, Verdict.WONT_FIT]
    if one.verdict is not Verdict.NEEDS:
        assert order.index(one.verdict) <= order.index(two.verdict)
    else:
        assert two.verdict is Verdict.NEEDS


def test_a_local_awq_directory_does_not_fit_in_process(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "phi-awq", "awq")
    settings = load_settings(model=str(path), models=(str(path),))
    (found,) = [row for row in rows(Catalog.of(settings), LAPTOP, settings) if row.spec.name == "phi-awq"]
    assert found.fit.words == "needs a GPU"
    (data,) = as_json([found], LAPTOP, "phi-awq", "")
    assert (data["fits"], data["quantization"], data["best"]) == ("needs a GPU", "awq", False)
    assert next(iter(overview([found], LAPTOP).columns[3].cells)).plain == "needs a GPU"  # type: ignore[union-attr]


def test_an_installed_model_of_unknown_size_is_read(tmp_path: Path) -> None:
    spec = ModelSpec(name="acme/tiny:q8_0", repo="acme/tiny", file="Q8_0")
    found = described(spec, write_gguf(tmp_path / "tiny-Q8_0.gguf"))
    assert (found.quantization, found.layers, found.kv_heads, found.context_window) == (
        "Q8_0",
        LAYERS,
        KV_HEADS,
        WINDOW,
    )
    assert fits(found, LAPTOP, engine="llama.cpp").verdict is Verdict.FITS
    assert described(spec, None) is spec
    (tmp_path / "tiny-Q8_0.gguf").write_bytes(b"GGUF")
    assert described(spec, tmp_path / "tiny-Q8_0.gguf") is spec


def test_a_path_of_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    spec = local(write_gguf(tmp_path / "Tiny-Q4_K_M.gguf"))
    assert (spec.name, spec.path, spec.gguf) == ("tiny-q4_k_m", str(tmp_path / "Tiny-Q4_K_M.gguf"), True)
    assert spec.quantization == "Q4_K_M"
    assert spec.download == pytest.approx((tmp_path / "Tiny-Q4_K_M.gguf").stat().st_size, abs=32)
    first, *_ = write_split(tmp_path / "big")
    split = local(first)
    assert (split.name, split.quantization) == ("big", "Q8_0")
    assert split.download > 2 * spec.download


@pytest.mark.parametrize("word", ["/nowhere/a.gguf", "./a.gguf", "models/a.gguf", "a.gguf"])
def test_a_missing_file_says_how_files_of_the_hub_are_named(word: str) -> None:
    with pytest.raises(ConfigError, match=r"There is no file .*a\.gguf; a file of the hub is named as owner/repo:file"):
        Catalog.of(load_settings(model=word))


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ConfigError, match="is a Git LFS pointer, not the model itself"):
        Catalog.of(load_settings(model=str(tmp_path / "a.gguf")))


def test_gguf_files_are_located_for_llama_cpp_only(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    catalog = Catalog.of(load_settings(model=str(file)))
    with pytest.raises(ModelError, match=r"set INHOUSE_ENGINE=llama\.cpp"):
        InstalledModels(RuntimeConfig(load_settings(model=str(file)), catalog)).locate("tiny")
    source = InstalledModels(RuntimeConfig(for_engine("llama.cpp"), catalog)).locate("tiny")
    assert source.path == str(file)
    assert source.context_window == WINDOW


def test_a_catalog_names_files_and_variants_for_engines(tmp_path: Path) -> None:
    text = """
[[model]]
name = "phi"
repo = "acme/phi"
parameters = 10
variants = { "llama.cpp" = "acme/phi-GGUF:Q4_K_M", "vllm" = "acme/phi-AWQ" }
[[model]]
name = "tiny"
repo = "acme/tiny-GGUF"
file = "Q8_0"
"""
    (tmp_path / "catalog.toml").write_text(text)

    def source(name: str, engine: str) -> str:
        settings = load_settings(catalog=tmp_path / "catalog.toml").model_copy(update={"engine": engine})
        return Catalog.of(settings).get(name).source

    assert [source("phi", engine) for engine in ("auto", "vllm", "llama.cpp")] == [
        "acme/phi",
        "acme/phi-AWQ",
        "acme/phi-GGUF:Q4_K_M",
    ]
    assert source("tiny", "auto") == "acme/tiny-GGUF:Q8_0"
    assert describe(ModelSpec(name="x", repo="a/b")).repo == "a/b"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('file = "../x.gguf"', "file must be a GGUF file of the repo"),
        ('variants = { openai = "a/b" }', "variants may be for vllm and llama.cpp, not 'openai'"),
        ('variants = { vllm = "a" }', "the variant for vllm must look like org/name"),
        ('variants = { "llama.cpp" = "a/b:../c.gguf" }', "the variant for llama.cpp must look like"),
        ("variants = 3", "variants: input should be a valid dict"),
    ],
)
def test_mistakes_in_a_catalogs_files_and_variants(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "catalog.toml").write_text(f'[[model]]\nname = "a"\nrepo = "a/b"\n{line}\n')
    with pytest.raises(ConfigError, match=sentence):
        Catalog.of(load_settings(catalog=tmp_path / "catalog.toml"))


HEADERS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))
    | st.fixed_dictionaries(
        {
            "dtype": st.text(max_size=3),
            "shape": st.lists(st.integers(), max_size=12),
            "data_offsets": st.lists(st.integers()),
        }
    ),
    max_size=4,
)


@given(
    HEADERS.map(lambda header: json.dumps(header).encode()) | st.binary(max_size=200),
    st.none() | st.integers(0, 2**64 - 1),
)
def test_any_safetensors_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, length: int | None
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content)
    try:
        refused = ""
        found = read_tensors(file)
    except ModelError as error:
        refused, found = str(error), []
    assert refused.startswith("any.safetensors ") or all(tensor.elements >= 0 for tensor in found)
