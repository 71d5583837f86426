"""Describe one model for `inhouse models NAME`: format, size, shape, and whether each engine can run it here.

Reads config files and headers, never weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bot.config.settings import Settings
from bot.models.fit import Fit, Verdict, fits
from bot.models.gguf_header import read_gguf
from bot.models.hardware import MB, Hardware
from bot.models.model_directory import read_json
from bot.models.model_files import described, is_file
from bot.models.model_spec import ModelSpec
from bot.models.model_table import STYLES, human
from bot.types.errors import ModelError

ENGINES = {"auto": "in-process", "vllm": "vLLM", "llama.cpp": "llama.cpp"}
"""Values of INHOUSE_ENGINE that run a model on this machine, and how they are shown."""

KV_BYTES = 2
"""Bytes of a value in the KV cache."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The facts about one model. template: None if unknown. fits: by the values of INHOUSE_ENGINE."""

    spec: ModelSpec
    path: Path | None
    template: bool | None
    fits: dict[str, Fit]


def report(spec: ModelSpec, path: Path | None, hardware: Hardware, settings: Settings) -> ModelReport:
    """Describe a model. path: where it is installed, or None."""
    spec = described(spec, path) if path is not None and not spec.quantization else spec
    how = settings.dtype, settings.quantization, settings.gpu_layers, settings.kv_cache_mb
    return ModelReport(
        spec, path, _has_template(spec, path), {engine: fits(spec, hardware, *how, engine) for engine in ENGINES}
    )


def facts(found: ModelReport) -> Iterator[tuple[str, str]]:
    """The lines of the report: a name and its value."""
    spec = found.spec
    yield "source", spec.source
    kind = "GGUF" if spec.gguf else "safetensors"
    yield "format", f"{kind}, {spec.quantization}" if spec.quantization not in ("", kind) else kind
    yield "parameters", human(spec.parameters, "") if spec.parameters else "not known before it is fetched"
    if spec.download:
        yield "size", human(spec.download, "B")
    if spec.layers:
        yield "layers", f"{spec.layers}, {spec.kv_heads} KV heads of {spec.head_dim}"
    if spec.context_window:
        yield "window", f"{spec.context_window:,} tokens"
    if spec.kv_values_per_token:
        token = spec.kv_values_per_token * KV_BYTES
        whole = f", {human(token * spec.context_window, 'B')} for its window" if spec.context_window else ""
        yield "KV cache", f"{human(token, 'B')} a token{whole}"
    if found.template is not None:
        yield "chat template", "yes" if found.template else "none"
    where = f"yes, {found.path}" if found.path is not None else f"no; `inhouse pull {spec.name}` fetches it"
    yield "downloaded", where


def tables(found: ModelReport, engine: str) -> list[Table]:
    """The report as tables: the facts, and a verdict for each engine. engine: INHOUSE_ENGINE, which is marked."""
    about = Table(box=None, pad_edge=False, show_header=False)
    about.add_column(no_wrap=True)
    about.add_column(overflow="fold")
    for name, value in facts(found):
        about.add_row(name, Text(value))
    verdicts = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("engine", "needs", "verdict", ""):
        verdicts.add_column(heading, overflow="fold", justify="right" if heading == "needs" else "left")
    for name, fit in found.fits.items():
        needs = human(fit.needed_mb * MB, "B") if fit.needed_mb else ""
        shown = f"{ENGINES[name]} (set)" if name == engine else ENGINES[name]
        verdicts.add_row(shown, needs, Text(fit.words, style=STYLES[fit.verdict]), Text(_why(fit)))
    return [about, verdicts]


def as_data(found: ModelReport) -> dict[str, object]:
    """The report as plain data. Sizes in bytes, memory in MB; unknown values are None."""
    spec = found.spec
    return {
        "name": spec.name,
        "source": spec.source,
        "path": str(found.path) if found.path is not None else None,
        "format": "gguf" if spec.gguf else "safetensors",
        "quantization": spec.quantization or None,
        "parameters": spec.parameters or None,
        "size": spec.download or None,
        "layers": spec.layers or None,
        "kv_heads": spec.kv_heads or None,
        "head_dim": spec.head_dim or None,
        "context_window": spec.context_window or None,
        "chat_template": found.template,
        "engines": {
            name: {
                "fits": fit.words,
                "needs_mb": fit.needed_mb or None,
                "free_mb": fit.available_mb,
                "why": fit.sentence,
            }
            for name, fit in found.fits.items()
        },
    }


def _why(fit: Fit) -> str:
    """What the verdict's words do not say: the memory there is, or what to do instead."""
    sentence = fit.sentence.rstrip(".")
    if fit.verdict is Verdict.NEEDS:
        return sentence
    return sentence.partition("; ")[2] or sentence.partition(", and ")[2]


def _has_template(spec: ModelSpec, path: Path | None) -> bool | None:
    """Whether the model has a chat template, of its own or a built-in one; None if it is not here or cannot be read."""
    if spec.template:
        return True
    if path is None:
        return None
    try:
        if is_file(path):
            return read_gguf(path).has_template
        config = path / "tokenizer_config.json"
        files = ("chat_template.jinja", "chat_template.json")
        return any((path / name).is_file() for name in files) or (
            config.is_file() and bool(read_json(config).get("chat_template"))
        )
    except ModelError:
        return None
