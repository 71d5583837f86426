"""Look up models by name, and decide which of them users may switch to.

Built from INHOUSE_MODEL, INHOUSE_MODELS and INHOUSE_CATALOG. All mistakes in these are reported in one ConfigError; a
lookup of an unknown name raises ModelError with suggestions.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bot.config.settings import Settings
from bot.models.gguf_names import ENDING, stem
from bot.models.model_files import describe
from bot.models.model_spec import ModelSpec, is_repository, read_specs
from bot.types.display_names import as_code
from bot.types.errors import ConfigError, ModelError

BUILT_IN = Path(__file__).with_name("catalog.toml")


REPLACED = {
    "smollm2-1.7b": ("qwen3-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    "phi-4-mini": ("qwen3-4b-instruct-2507", "microsoft/Phi-4-mini-instruct"),
    "qwen2.5-coder-7b-instruct": ("mellum2-12b", "Qwen/Qwen2.5-Coder-7B-Instruct"),
    "llama-3.1-8b-instruct": ("ministral-3-8b", "meta-llama/Llama-3.1-8B-Instruct"),
    "qwen2.5-14b-instruct": ("ministral-3-14b", "Qwen/Qwen2.5-14B-Instruct"),
}
"""Models that the built-in catalog had: what replaces each, and its repository."""


class Catalog:
    """An immutable set of models; changed settings need a new catalog."""

    def __init__(self, specs: Iterable[ModelSpec], listed: Iterable[str], default: str) -> None:
        """Build a catalog of `specs` and of the repositories and directories in `listed` and `default`.

        listed: names, repositories and directories that users may switch to; empty means all of `specs`. default: the
        model of channels without a choice of their own. Raises ConfigError that lists every unknown name.
        """
        self._specs = {spec.name: spec for spec in specs}
        wanted = list(listed) or list(self._specs)
        self._aliases: dict[str, str] = {}
        mistakes: list[str] = []
        chosen = [self._include(word, mistakes) for word in dict.fromkeys([*wanted, default])]
        if mistakes:
            raise ConfigError("\n".join(mistakes))
        self.names = tuple(sorted(set(chosen)))
        """The names of models that users may switch to, sorted."""
        self.default = self._aliases.get(default, default.lower())
        """The name of the model of channels without a choice of their own."""

    @classmethod
    def of(cls, settings: Settings) -> "Catalog":
        """Build the catalog for these settings. Raises ConfigError."""
        specs = {spec.name: spec for spec in read_specs(BUILT_IN)}
        if settings.engine == "openai":
            return cls.of_servers((settings.model, *settings.models))
        if settings.catalog is not None:
            specs |= {spec.name: describe(spec) for spec in read_specs(settings.catalog)}
        specs = {name: spec.for_engine(settings.engine) for name, spec in specs.items()}
        return cls(specs.values(), settings.models, settings.model)

    @classmethod
    def of_servers(cls, ids: Sequence[str]) -> "Catalog":
        """Build the catalog of models that servers offer, by their ids there; the first one is the default.

        Descriptions of the built-in catalog hold for the same names and repositories, and for those of its variants.
        """
        known = {
            source.lower(): spec
            for spec in reversed(read_specs(BUILT_IN))
            for source in (*(variant.source for variant in spec.variants.values()), spec.repo, spec.name)
        }
        served = {model: _served(model, known.get(model.lower())) for model in ids}
        catalog = cls(served.values(), (), served[ids[0]].name)
        catalog._aliases |= {model: spec.name for model, spec in served.items()}
        return catalog

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._specs.values())

    def get(self, name: str) -> ModelSpec:
        """Return a model by name, whether or not users may switch to it. Raises ModelError."""
        word = name.strip()
        found = self._specs.get(self._aliases.get(word, word.lower()))
        if found is None:
            raise ModelError(self._unknown(word, self._specs))
        return found

    def choose(self, name: str) -> ModelSpec:
        """Return a model that users may switch to. Raises ModelError, which lists those models."""
        word = name.strip()
        known = self._aliases.get(word, word.lower())
        if known in self.names:
            return self._specs[known]
        if known in self._specs:
            raise ModelError(f"{known} is not offered here; there are {', '.join(self.names)}.")
        raise ModelError(self._unknown(word, self.names))

    def _include(self, word: str, mistakes: list[str]) -> str:
        """Return the catalog name of a listed word; add its model if it is a new repository or directory."""
        if word.lower() in self._specs:
            return word.lower()
        spec = self._known(word) or _listed(word)
        if isinstance(spec, str):
            mistakes.append(spec if _looks_like_path(word) else self._unknown(word, self._specs))
            return ""
        if spec.name in self._specs and self._specs[spec.name] != spec:
            mistakes.append(f"{word} would be called {spec.name}, as another model is; rename it.")
        self._specs.setdefault(spec.name, spec)
        self._aliases[word] = spec.name
        return spec.name

    def _known(self, word: str) -> ModelSpec | None:
        """The model of the catalog whose repository or file a word names, by the name that the word gives it."""
        found = next((spec for spec in self._specs.values() if spec.source.lower() == word.lower()), None)
        return found if found is None or not found.repo else found.model_copy(update={"name": word.lower()})

    @staticmethod
    def _unknown(word: str, names: Iterable[str]) -> str:
        names = list(names)
        if word.lower() in REPLACED:
            better, repo = REPLACED[word.lower()]
            return f"{word.lower()} is no longer in the catalog: use {better}, or its repository {repo}."
        near = [name for name in names if len(word) > 2 and word.lower() in name][:3]
        near = near or difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}."
        if is_repository(word):
            hint = f"to use a repository of the hub, list it in INHOUSE_MODELS; otherwise {hint}"
        return f"There is no model called {as_code(word, 80)}; {hint}"


def _looks_like_path(word: str) -> bool:
    """Whether a word names a directory or a GGUF file of this machine, and nothing of the hub."""
    local = word.lower().endswith(ENDING) and ":" not in word
    return local or word.startswith((".", "~", "/", "\\")) or Path(word).is_absolute()


def _served(model: str, known: ModelSpec | None) -> ModelSpec:
    """The spec of a server's model. llama.cpp's ids are paths, which are not shown to people."""
    name = model.replace("\\", "/").rsplit("/", 1)[-1] if _looks_like_path(model) else model
    spec = known or ModelSpec(name=model)
    return spec.model_copy(
        update={"name": name.lower().removesuffix(".gguf"), "repo": model, "template": "", "stop": ()}
    )


def _listed(word: str) -> ModelSpec | str:
    """The spec of a listed directory or repository, or a sentence that says what is wrong with it."""
    if _looks_like_path(word):
        try:
            path = Path(word).expanduser().resolve()
            name = stem(path.name) if path.name.lower().endswith(ENDING) else path.name
            spec = describe(ModelSpec(name=name.lower() or word, path=str(path)))
        except ConfigError as error:
            return str(error)
        except (OSError, RuntimeError, ValueError) as error:
            return f"{word} cannot be used as a directory of a model: {error}."
        return spec
    if is_repository(word):
        repo, _, file = word.partition(":")
        return ModelSpec(name=word.lower(), repo=repo, file=file)
    return f"{word} is neither a name of the catalog, nor org/name or org/name:file.gguf, nor a path."
