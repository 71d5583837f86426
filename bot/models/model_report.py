"""Describe one model for `inhouse models NAME`: format, size, shape, template, and how each engine runs it here.

Reads config files and headers, never weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from rich.table import Table
from rich.text import Text

from bot.config.settings import Settings
from bot.models.decode_speed import speed
from bot.models.fit import Fit, Verdict
from bot.models.gguf_header import read_gguf
from bot.models.hardware import MB, Hardware
from bot.models.model_directory import read_json
from bot.models.model_files import described, is_file
from bot.models.model_spec import ModelSpec
from bot.models.model_table import STYLES, human
from bot.models.ways import ENGINES, Way, way
from bot.types.errors import ModelError

KV_BYTES = 2
"""Bytes of a value in the KV cache."""


IN_PROCESS = (("auto", "none"), ("float32", "none"), ("bfloat16", "none"), ("auto", "8bit"), ("auto", "4bit"))
"""Values of INHOUSE_DTYPE and INHOUSE_QUANTIZATION for which the memory is shown."""

THINKING = {"never": "no", "switch": "can be switched on with /think", "always": "always"}


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a chat template takes. stops: the texts that end an answer. problem: why it cannot be used, or ''.

    consecutive_users: whether two user turns may follow each other; Inhouse merges them in any case.
    """

    system_role: bool = False
    consecutive_users: bool = False
    stops: tuple[str, ...] = ()
    thinks: bool = False
    efforts: tuple[str, ...] = ()
    tools: bool = False
    problem: str = ""

    @classmethod
    def from_data(cls, data: Mapping[str, object]) -> Self:
        """Build from what `dataclasses.asdict` made, read from JSON."""

        def texts(name: str) -> tuple[str, ...]:
            found = data.get(name)
            return tuple(map(str, found)) if isinstance(found, list) else ()

        return cls(
            system_role=data.get("system_role") is True,
            consecutive_users=data.get("consecutive_users") is True,
            stops=texts("stops"),
            thinks=data.get("thinks") is True,
            efforts=texts("efforts"),
            tools=data.get("tools") is True,
            problem=str(data.get("problem", "")),
        )


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The facts about one model. has_template: None if unknown. template: None if it was not read.

    fits: by the values of INHOUSE_ENGINE. ways: with each engine, and in-process in each format of IN_PROCESS.
    """

    spec: ModelSpec
    path: Path | None
    has_template: bool | None
    template: TemplateFacts | None
    fits: dict[str, Fit]
    ways: tuple[Way, ...]


def report(
    spec: ModelSpec,
    path: Path | None,
    hardware: Hardware,
    settings: Settings,
    template: TemplateFacts | None = None,
) -> ModelReport:
    """Describe a model. path: where it is installed, or None. template: what its chat template takes, if known."""
    spec = described(spec, path) if path is not None and not spec.quantization else spec
    found = {engine: way(spec, hardware, settings, engine) for engine in ENGINES}
    ways = [each for engine, each in found.items() if engine != "auto" or spec.quantization or spec.gguf]
    if not (spec.quantization or spec.gguf):
        formats = [
            way(spec, hardware, settings.model_copy(update={"dtype": dtype, "quantization": bits}), "auto")
            for dtype, bits in IN_PROCESS
        ]
        ways[:0] = {each.weights: each for each in formats}.values()
    verdicts = {engine: each.fit for engine, each in found.items()}
    return ModelReport(spec, path, _has_template(spec, path), template, verdicts, tuple(ways))


def facts(found: ModelReport) -> Iterator[tuple[str, str]]:
    """The lines of the report: a name and its value."""
    spec = found.spec
    yield "source", spec.source
    kind = "GGUF" if spec.gguf else "safetensors"
    yield "format", f"{kind}, {spec.quantization}" if spec.quantization not in ("", kind) else kind
    active = f", {human(spec.active, '')} used for each token" if spec.active else ""
    yield "parameters", f"{human(spec.parameters, '')}{active}" if spec.parameters else "not known before it is fetched"
    if spec.download:
        yield "size", human(spec.download, "B")
    if spec.layers:
        yield "layers", f"{spec.layers}, {spec.kv_heads} KV heads of {spec.head_dim}"
    if spec.context_window:
        yield "window", f"{spec.context_window:,} tokens"
    if spec.kv_values_per_token or spec.sliding_values:
        yield "KV cache", _kv_line(spec)
    if spec.licence:
        yield "licence", f"{spec.licence}{', gated' if spec.gated else ''}"
    yield from _template_facts(found)
    yield "sees pictures", "yes" if spec.vision else "no"
    where = f"yes, {found.path}" if found.path is not None else f"no; `inhouse pull {spec.name}` fetches it"
    yield "downloaded", where


def _kv_line(spec: ModelSpec) -> str:
    token = human((spec.kv_values_per_token + spec.sliding_values) * KV_BYTES, "B")
    later = human(spec.kv_values_per_token * KV_BYTES, "B")
    line = f"{token} a token"
    if spec.sliding_values:
        line += f", {later} after the first {spec.sliding_window:,}"
    if spec.context_window:
        line += f", {human(spec.kv_bytes(spec.context_window, KV_BYTES), 'B')} for its window"
    return line


def _template_facts(found: ModelReport) -> Iterator[tuple[str, str]]:
    if found.has_template is not None:
        yield "chat template", "yes" if found.has_template else "none"
    template, spec = found.template, found.spec
    if template is None:
        if spec.thinking:
            yield "thinks", f"{THINKING[spec.thinking]}{_efforts(spec.efforts)}"
        return
    if template.problem:
        yield "template", template.problem
        return
    yield "system role", "yes" if template.system_role else "no: the system prompt opens the first question"
    yield "consecutive users", "taken" if template.consecutive_users else "refused: Inhouse merges them"
    yield "an answer ends with", ", ".join(template.stops) or "the end of the text only"
    thinking = "switch" if "off" in template.efforts else "always" if template.thinks else "never"
    yield "thinks", f"{THINKING[thinking]}{_efforts(template.efforts)}"
    yield "calls tools", "yes" if template.tools else "no"


def _efforts(efforts: tuple[str, ...]) -> str:
    return f" (/think {', '.join(efforts)})" if efforts else ""


def tables(found: ModelReport, engine: str) -> list[Table]:
    """The report as tables: the facts, and a verdict for each engine. engine: INHOUSE_ENGINE, which is marked."""
    about = Table(box=None, pad_edge=False, show_header=False)
    about.add_column(no_wrap=True)
    about.add_column(overflow="fold")
    for name, value in facts(found):
        about.add_row(name, Text(value))
    verdicts = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("engine", "weights", "needs", "tokens/s", "verdict", ""):
        numeric = heading in ("needs", "tokens/s")
        verdicts.add_column(heading, overflow="fold", justify="right" if numeric else "left")
    for each in found.ways:
        fit = each.fit
        needs = human(fit.needed_mb * MB, "B") if fit.needed_mb else ""
        is_set = each.engine == engine and each.fit == found.fits[engine]
        shown = f"{ENGINES[each.engine]} (set)" if is_set else ENGINES[each.engine]
        pace = speed(each.tokens_s) if each.usable else ""
        why = _why(fit)
        if each.usable and not each.together:
            why = f"one answer at a time{f'; {why}' if why else ''}"
        verdicts.add_row(shown, each.weights, needs, pace, Text(fit.words, style=STYLES[fit.verdict]), Text(why))
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
        "licence": spec.licence or None,
        "gated": spec.gated,
        "active": spec.active or None,
        "kv_bytes_per_token": (spec.kv_values_per_token + spec.sliding_values) * KV_BYTES or None,
        "vision": spec.vision,
        "chat_template": found.has_template,
        "template": asdict(found.template) if found.template is not None else None,
        "ways": [
            {
                "engine": each.engine,
                "weights": each.weights,
                "needs_mb": each.fit.needed_mb or None,
                "fits": each.fit.words,
                "tokens_s": round(each.tokens_s, 1) or None,
            }
            for each in found.ways
        ],
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
