"""Tests the report about one model: a GGUF file, a quantized directory, and a model that is not here."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.models.hardware import Hardware
from bot.models.model_report import ModelReport, as_data, facts, report, tables
from bot.models.pull import installed
from tests.models.test_stored_weights import CARD, LAPTOP, write_directory
from tests.support.builders.gguf_files import HEAD_DIM, KV_HEADS, LAYERS, write_gguf


def reported(word: str, hardware: Hardware) -> ModelReport:
    settings = load_settings(model=word)
    catalog = Catalog.of(settings)
    spec = catalog.get(catalog.default)
    return report(spec, installed(spec, settings), hardware, settings)


@pytest.mark.parametrize("template", ["", "{{ messages }}"])
def test_a_gguf_file(tmp_path: Path, template: str) -> None:
    file = write_gguf(tmp_path / "Tiny-Q8_0.gguf", template=template)
    found = reported(str(file), LAPTOP)
    told = dict(facts(found))
    assert told["format"] == "GGUF, Q8_0"
    assert told["layers"] == f"{LAYERS}, {KV_HEADS} KV heads of {HEAD_DIM}"
    assert told["window"] == "512 tokens"
    assert told["KV cache"] == "256 B a token, 131.1 kB for its window"
    assert told["chat template"] == ("yes" if template else "none")
    assert told["downloaded"] == f"yes, {file}"
    assert {name: fit.words for name, fit in found.fits.items()} == {
        "auto": "needs llama.cpp",
        "vllm": "needs llama.cpp",
        "llama.cpp": "fits",
    }


def test_an_awq_directory(tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "phi-awq", "awq")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    found = reported(str(folder), CARD)
    told = dict(facts(found))
    assert (told["format"], told["parameters"], told["chat template"]) == ("safetensors, awq", "4.7 k", "yes")
    data = as_data(found)
    assert data["engines"]["vllm"]["fits"] == "fits"  # type: ignore[index]
    assert data["engines"]["auto"]["fits"] == "needs vllm"  # type: ignore[index]
    assert data["engines"]["llama.cpp"]["fits"] == "needs a GGUF file"  # type: ignore[index]
    assert json.loads(json.dumps(data)) == data


def test_a_model_that_is_not_here(home: Path) -> None:
    found = reported("acme/phi-GGUF:Q4_K_M", CARD)
    told = dict(facts(found))
    assert told["parameters"] == "not known before it is fetched"
    assert told["downloaded"] == "no; `inhouse pull acme/phi-gguf:q4_k_m` fetches it"
    assert "chat template" not in told
    assert found.fits["llama.cpp"].words == "unknown"
    assert found.fits["auto"].words == "needs llama.cpp"


def test_a_model_of_the_catalog(home: Path) -> None:
    found = reported("phi-4", CARD)
    assert dict(facts(found))["parameters"] == "14.7 G"
    assert found.fits["auto"].words == "won't fit"


def test_the_tables_name_the_engine_that_is_set(tmp_path: Path) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    for table in tables(reported(str(write_gguf(tmp_path / "tiny.gguf")), LAPTOP), "auto"):
        console.print(table)
    lines = console.export_text().splitlines()
    assert any(line.startswith("in-process (set)") and "needs llama.cpp" in line for line in lines)
    assert any(line.startswith("llama.cpp ") and "fits" in line and "are free" in line for line in lines)
