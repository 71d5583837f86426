"""Finds the tokenizer of a server's model on this machine, so that prompts can be sent as token ids."""

from dataclasses import dataclass
from pathlib import Path

from bot.config.settings import Settings
from bot.models.catalog import BUILT_IN
from bot.models.model_spec import ModelSpec, read_specs
from bot.models.pull import installed
from bot.types.errors import ConfigError

FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class ServedTokenizer:
    """A directory with tokenizer files, and what the catalog says about the model's prompts."""

    folder: Path
    template: str = ""
    stop: tuple[str, ...] = ()


def find_tokenizer(model: str, settings: Settings) -> ServedTokenizer | None:
    """Return the tokenizer of the model that servers call `model`; None if it is not on this machine.

    The id is a name or a repository of the catalog, a repository in the hub's cache (its weights need not be there), or
    a directory. Blocks; sends no requests.
    """
    for spec in _specs(settings):
        if model.lower() in (spec.name.lower(), spec.repo.lower()):
            folder = installed(spec, settings) or _folder(spec)
            if folder is not None:
                return ServedTokenizer(folder, spec.template, spec.stop)
    folder = _folder(ModelSpec(name=model, repo=model))
    return None if folder is None else ServedTokenizer(folder)


def _specs(settings: Settings) -> list[ModelSpec]:
    """The catalog's models, the operator's first."""
    own: tuple[ModelSpec, ...] = ()
    if settings.catalog is not None:
        try:
            own = read_specs(settings.catalog)
        except ConfigError:  # the catalog is not used for models of servers otherwise
            own = ()
    return [*own, *read_specs(BUILT_IN)]


def _folder(spec: ModelSpec) -> Path | None:
    """The directory, or the newest one in the hub's cache, that has tokenizer files."""
    from huggingface_hub import constants, try_to_load_from_cache

    places = [Path(spec.path or spec.repo).expanduser()] if spec.path or Path(spec.repo).is_absolute() else []
    if not places:
        for name in FILES:
            try:
                found = try_to_load_from_cache(spec.repo, name, cache_dir=constants.HF_HUB_CACHE)
            except ValueError:  # no name of a repository
                return None
            places += [Path(found).parent] if isinstance(found, str) else []
    return next((place for place in places if any((place / name).is_file() for name in FILES)), None)
