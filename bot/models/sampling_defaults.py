"""Resolve the sampling parameters of a model that no conversation has set, each with the place where it comes from.

Precedence: the operator's setting, the catalog, the repository's generation_config.json, DEFAULTS.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bot.models.model_directory import read_json
from bot.models.model_files import is_file
from bot.models.model_spec import ModelSpec
from bot.models.pull import installed
from bot.models.runtime_config import RuntimeConfig
from bot.models.served_tokenizer import find_tokenizer
from bot.types.errors import ModelError

DEFAULTS = {
    "temperature": 0.7,
    "top_p": 0.95,
    "top_k": 0.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
}
"""Values where nothing else says one; those of the last four switch the parameter off."""

RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.01, 1.0),
    "top_k": (0.0, 100_000.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
}
"""Lowest and highest values that are taken from a generation_config.json; others are ignored."""

GENERATION_CONFIG = "generation_config.json"
DEFAULT_SOURCE, CATALOG_SOURCE = "default", "the catalog"
REPOSITORY_SOURCE = f"the model's {GENERATION_CONFIG}"

LARGEST_BYTES = 64 * 1024
"""Largest generation_config.json that is read; known ones have some hundred bytes."""
LOOK_AGAIN_S = 10.0
"""Seconds after which a model that was not installed is looked for again."""


@dataclass(frozen=True, slots=True)
class SamplingDefault:
    """A parameter's value, and where it comes from: a variable, the catalog, the repository, 'default'."""

    value: float
    source: str


class SamplingDefaults:
    """The sampling parameters of the models of a `RuntimeConfig`; reads each generation_config.json once."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._config = config
        self._advised: dict[tuple[str, str], Mapping[str, float]] = {}
        self._missing: dict[tuple[str, str], float] = {}  # when to look again

    def of(self, model: str, *, greedy: bool = True) -> dict[str, SamplingDefault]:
        """The defaults of a model by name of the parameter.

        greedy: whether a temperature of 0 that the operator did not set counts.
        """
        settings, catalog = self._config.settings, self._config.catalog
        spec = catalog.get(model) if model in catalog.names else None
        found = {}
        for name, fallback in DEFAULTS.items():
            if name in settings.model_fields_set:
                found[name] = SamplingDefault(getattr(settings, name), f"INHOUSE_{name.upper()}")
                continue
            places: list[tuple[float | None, str]] = []
            if spec is not None:
                places = [(getattr(spec, name), CATALOG_SOURCE), (self._advice(spec).get(name), REPOSITORY_SOURCE)]
            valid = [
                SamplingDefault(float(value), source)
                for value, source in places
                if value is not None and (greedy or name != "temperature" or value > 0)
            ]
            found[name] = valid[0] if valid else SamplingDefault(fallback, DEFAULT_SOURCE)
        return found

    def _advice(self, spec: ModelSpec) -> Mapping[str, float]:
        """What the generation_config.json of an installed model says."""
        key = self._config.settings.engine, spec.source
        if key not in self._advised and time.monotonic() >= self._missing.get(key, 0.0):
            folder = self._folder(spec)
            if folder is None:
                self._missing[key] = time.monotonic() + LOOK_AGAIN_S
            else:
                self._advised[key] = read_advice(folder)
        return self._advised.get(key, {})

    def _folder(self, spec: ModelSpec) -> Path | None:
        settings = self._config.settings
        if settings.engine == "openai":
            found = find_tokenizer(spec.repo, settings)
            return None if found is None else found.folder
        return installed(spec, settings)


def read_advice(path: Path) -> dict[str, float]:
    """The sampling parameters in the generation_config.json of a model's directory; {} for a GGUF file.

    Values of the wrong type or out of range are left out, as are all if the file says that sampling is off.
    """
    file = path / GENERATION_CONFIG
    try:
        if is_file(path) or not file.is_file() or file.stat().st_size > LARGEST_BYTES:
            return {}
        content = read_json(file)
    except (OSError, ModelError):  # doctor reports damaged files
        return {}
    if content.get("do_sample") is False:
        return {}
    found = {}
    for name, (low, high) in RANGES.items():
        value = content.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            found[name] = float(value)
    return found
