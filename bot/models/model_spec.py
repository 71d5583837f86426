"""Parse catalog files (TOML) into `ModelSpec` objects.

All mistakes in a file are reported in one ConfigError, one line each. No other exception leaves this module, whatever
the file contains.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from bot.config.environment import read_text
from bot.models.gguf_names import ENDING, is_tag, label_of
from bot.types.errors import ConfigError

SYSTEM = "You are a helpful assistant in a team's chat. Answer briefly, and say so when you do not know."
TEMPLATES = ("", "phi-2")
"""Values of `template`; '' is the tokenizer's own chat template."""

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
REPO = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
VARIANTS = ("vllm", "llama.cpp")
"""Engines for which an entry of the catalog may name another repository or file."""

STATE_BYTES = 4
"""Bytes of a value of a recurrent state, which is float32 whatever the weights are."""

Count = Annotated[int, Field(ge=0, le=10**15)]
Text = Annotated[str, Field(max_length=10_000)]


def is_repository(word: str) -> bool:
    """Whether a word names a repository, or with ':' a GGUF file in one."""
    repo, colon, tag = word.partition(":")
    return re.fullmatch(REPO, repo, re.ASCII) is not None and (not colon or is_tag(tag))


class Variant(BaseModel):
    """What an engine uses in place of a model's repository: another one, or a GGUF file. 0 and '' mean unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: str
    download: Count = 0
    quantization: Annotated[str, Field(max_length=40)] = ""


def _variants(value: object) -> object:
    """Accept a variant that is only the name of its repository or file."""
    if not isinstance(value, dict):
        return value
    return {engine: {"source": each} if isinstance(each, str) else each for engine, each in value.items()}


class ModelSpec(BaseModel):
    """One model. In descriptive fields, 0 and '' mean unknown; catalog.toml documents each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    repo: str = ""
    file: str = ""
    path: str = ""
    variants: Annotated[dict[str, Variant], BeforeValidator(_variants)] = {}
    engines: tuple[Literal["auto", "vllm", "llama.cpp"], ...] = ()
    quantization: Annotated[str, Field(max_length=40)] = ""
    parameters: Count = 0
    active: Count = 0
    embeddings: Count = 0
    tied: bool = False
    download: Count = 0
    context_window: Count = 0
    layers: Count = 0
    kv_heads: Count = 0
    head_dim: Count = 0
    kv_values: Count = 0
    sliding_values: Count = 0
    sliding_window: Count = 0
    state_values: Count = 0
    template: str = ""
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    system: Text = SYSTEM
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0.01, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=2, allow_inf_nan=False)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    thinking: Literal["", "never", "switch", "always"] = ""
    efforts: tuple[Literal["off", "low", "high"], ...] = ()
    vision: bool = False
    strength: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)] = 0.0
    focus: Annotated[str, Field(max_length=20)] = ""
    licence: Text = ""
    licence_url: Text = ""
    gated: bool = False

    @property
    def kv_values_per_token(self) -> int:
        """Values that one token adds to the KV cache of the layers that keep all tokens; 0 if the shape is unknown."""
        if self.kv_values or self.sliding_values or self.state_values:
            return self.kv_values
        return 2 * self.layers * self.kv_heads * self.head_dim

    def kv_bytes(self, tokens: int, value: float) -> int:
        """Bytes that a conversation of so many tokens takes in the KV cache. value: bytes of a value."""
        kept = min(tokens, self.sliding_window) if self.sliding_window else tokens
        values = tokens * self.kv_values_per_token + kept * self.sliding_values
        return int(values * value) + self.state_values * STATE_BYTES

    @property
    def gguf(self) -> bool:
        """Whether the model is a GGUF file (of several parts perhaps), not a directory of safetensors."""
        return bool(self.file) or self.path.lower().endswith(ENDING)

    @property
    def source(self) -> str:
        """Where the model comes from: 'org/name', 'org/name:file' or a path."""
        return f"{self.repo}:{self.file}" if self.file else self.repo or self.path

    def for_engine(self, engine: str) -> "ModelSpec":
        """The variant of this model for an engine, or this spec if it has none for it."""
        variant = self.variants.get(engine)
        if variant is None:
            return self
        repo, _, file = variant.source.partition(":")
        update = {"repo": repo, "file": file, "path": "", "download": variant.download}
        return self.model_copy(update=update | {"quantization": variant.quantization or label_of(file) or file})

    def batches(self, *, on_gpu: bool) -> bool:
        """Whether Inhouse's own process can write several answers at once: of models whose layers all keep keys and
        values alike; on a GPU, only of models for text without pictures.
        """
        alike = 2 * self.layers * self.kv_heads * self.head_dim
        uniform = not self.state_values and self.kv_values_per_token + self.sliding_values == alike
        return uniform and not (on_gpu and self.vision)


class _Entry(ModelSpec):
    """A ModelSpec with the validation that applies to catalog files."""

    @model_validator(mode="after")
    def _sensible(self) -> "_Entry":
        wrong = []
        if not re.fullmatch(NAME, self.name):
            wrong.append("name must be 1 to 64 small letters, digits, '.', '_' or '-'")
        if bool(self.repo) == bool(self.path):
            wrong.append("give either repo (org/name) or path (a directory)")
        if self.repo and not re.fullmatch(REPO, self.repo):
            wrong.append(f"repo must look like org/name, not {self.repo!r}")
        if self.file and not (self.repo and is_tag(self.file)):
            wrong.append("file must be a GGUF file of the repo, or a quantization such as Q4_K_M")
        for engine, word in ((engine, variant.source) for engine, variant in self.variants.items()):
            if engine not in VARIANTS:
                wrong.append(f"variants may be for {' and '.join(VARIANTS)}, not {engine!r}")
            elif not is_repository(word):
                wrong.append(f"the variant for {engine} must look like org/name or org/name:Q4_K_M, not {word!r}")
        if "\0" in self.path:
            wrong.append("path cannot be the name of a directory")
        if self.template not in TEMPLATES:
            wrong.append(f"template must be one of {', '.join(repr(name) for name in TEMPLATES)}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def read_specs(file: Path) -> tuple[ModelSpec, ...]:
    """Read the models of a TOML file, in file order. A relative `path` is relative to the file's directory.

    Raises ConfigError that lists every mistake.
    """
    try:
        content = tomllib.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"The catalog {file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The catalog {file} is not UTF-8 text.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"The catalog {file} is not a TOML file: {error}.") from error
    except ValueError as error:  # a date or number that TOML allows and Python cannot represent
        raise ConfigError(f"The catalog {file} has a value that cannot be read: {error}.") from error
    specs, mistakes = _entries(content)
    if mistakes:
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise ConfigError(f"The catalog {file} has mistakes:{lines}")
    return tuple(_with_absolute_path(spec, file.parent) for spec in specs)


def _entries(content: dict[str, object]) -> tuple[list[ModelSpec], list[str]]:
    """Return the models of a parsed file and its mistakes."""
    mistakes = [f"{key}: only [[model]] tables may stand here" for key in content if key != "model"]
    tables = content.get("model", [])
    if not isinstance(tables, list):
        return [], [*mistakes, "model: write [[model]], with two brackets, above each model"]
    specs: list[ModelSpec] = []
    for number, table in enumerate(tables, 1):
        name = table.get("name") if isinstance(table, dict) else None
        place = f"model {number}" + (f" ({name})" if isinstance(name, str) else "")
        try:
            entry = _Entry.model_validate(_with_tuples(table))
        except ValidationError as error:
            mistakes += [f"{place}: {_sentence(detail)}" for detail in error.errors()]
            continue
        if any(spec.name == entry.name for spec in specs):
            mistakes.append(f"{place}: the name is used twice")
        specs.append(ModelSpec(**entry.model_dump()))
    return specs, mistakes


def _with_tuples(table: object) -> object:
    """Convert TOML arrays to tuples; strict validation of `stop` requires them."""
    if not isinstance(table, dict):
        return table
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _sentence(detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{field} is not known; there are {', '.join(ModelSpec.model_fields)}"
    if detail["type"] == "missing":
        return f"{field} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{field}: {message[:1].lower()}{message[1:]}" if field else message


def _with_absolute_path(spec: ModelSpec, folder: Path) -> ModelSpec:
    if not spec.path:
        return spec
    try:
        path = Path(spec.path).expanduser()
    except RuntimeError:  # ~name of an unknown user; reported later as a missing directory
        path = Path(spec.path)
    return spec.model_copy(update={"path": str(folder.absolute() / path)})
