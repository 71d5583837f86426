"""Tests the report about one model: a GGUF file, a quantized directory, and a model that is not here."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.models.hardware import Hardware
from bot.models.model_report import ModelReport, as_data, facts, report, tables
from bot.models.pull import installed
from tests.models.test_stored_weights import CARD, LAPTOP, LAYER, write_directory
from tests.support.builders.cli import Inhouse
from tests.support.builders.gguf_files import HEAD_DIM, KV_HEADS, LAYERS, write_gguf
from tests.support.builders.tiny_models import make_tiny

pytest_plugins = ["tests.support.fixtures.cli"]

FAST = replace(CARD, read_gb_s=1000.0)


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


def test_the_memory_and_the_speed_in_each_format() -> None:
    found = report(Catalog.of(load_settings()).get("phi-4"), None, FAST, load_settings())
    ways = {(way.engine, way.weights): way for way in found.ways}
    assert list(ways)[:4] == [("auto", "bfloat16"), ("auto", "float32"), ("auto", "8bit"), ("auto", "4bit")]
    needs = [ways["auto", weights].fit.needed_mb for weights in ("float32", "bfloat16", "8bit", "4bit")]
    assert needs == sorted(needs, reverse=True)
    speeds = [ways["auto", weights].tokens_s for weights in ("float32", "bfloat16", "8bit", "4bit")]
    assert speeds == sorted(speeds)
    assert ways["vllm", "bfloat16"].tokens_s == pytest.approx(1e12 / (2 * 14.15e9), rel=0.02), "all but the embeddings"


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
STRICT = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '[INST]' + message['content'] + '[/INST]' if message['role'] == 'user' else message['content'] + eos_token }}"
    "{% endfor %}{# tools #}"
)


@pytest.mark.parametrize(
    ("template", "lines"),
    [
        (
            CHATML,
            {
                "system role": "yes",
                "consecutive users": "taken",
                "an answer ends with": "<|im_end|>, <|endoftext|>",
                "thinks": "can be switched on with /think (/think off, low, high)",
                "calls tools": "no",
            },
        ),
        (
            STRICT,
            {
                "system role": "no: the system prompt opens the first question",
                "consecutive users": "refused: Inhouse merges them",
                "thinks": "no",
                "calls tools": "yes",
            },
        ),
        ("{{ raise_exception('no') }}", {"template": "cannot render a conversation"}),
    ],
)
def test_what_the_template_takes(inhouse: Inhouse, tmp_path: Path, template: str, lines: dict[str, str]) -> None:
    folder = make_tiny("llama", tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text(template)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    status, out, _ = inhouse("models", str(folder))
    assert status == 0
    told = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    for name, text in lines.items():
        assert text in told[name]
    if template == STRICT:  # one of them also as JSON
        status, out, _ = inhouse("models", str(folder), "--json")
        found = json.loads(out)["template"]
        assert (found["problem"], found["system_role"]) == ("", False)


def test_the_template_of_a_gguf_file_is_tried_too(inhouse: Inhouse, tmp_path: Path) -> None:
    told = []
    for name, template in (("chat", CHATML), ("strict", STRICT), ("mute", "")):
        file = write_gguf(tmp_path / f"{name}-Q8_0.gguf", template=template)
        _, out, _ = inhouse("models", str(file))
        told.append(dict(line.split("  ", 1) for line in out.splitlines() if "  " in line))
    assert "<|im_end|>" in told[0]["an answer ends with"]
    assert "/think off, low, high" in told[0]["thinks"]
    assert "Inhouse merges them" in told[1]["consecutive users"]
    assert told[1]["an answer ends with"].strip() == "the file's own end of text"
    assert "has no chat template" in told[2]["template"]


def test_a_tokenizer_that_cannot_be_read_is_a_line(inhouse: Inhouse, tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{")
    status, out, _ = inhouse("models", str(folder))
    assert status == 0
    assert "cannot be read" in out


@pytest.mark.parametrize(
    ("method", "here", "server"),
    [
        ("awq", "needs vllm", "fits"),
        ("gptq", "needs vllm", "fits"),
        ("compressed-tensors", "needs vllm", "fits"),
        ("modelopt", "needs vllm", "fits"),
        ("bitsandbytes", "fits", "fits"),
        ("fp8", "fits", "fits"),
        ("mxfp4", "fits", "fits"),
        ("quanto", "needs optimum.quanto", "needs another engine"),
        ("hqq", "needs hqq", "needs another engine"),
    ],
)
def test_which_engine_a_quantized_repository_needs(tmp_path: Path, method: str, here: str, server: str) -> None:
    folder = write_directory(tmp_path / "model", method, LAYER.get(method, LAYER["awq"]))
    found = reported(str(folder), CARD)
    words = {engine: fit.words for engine, fit in found.fits.items()}
    assert words == {"auto": here, "vllm": server, "llama.cpp": "needs a GGUF file"}
