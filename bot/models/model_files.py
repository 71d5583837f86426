"""Check and describe models on this disk, in either format: a directory of safetensors, or a GGUF file.

A model of several GGUF files is known by the path of the first one. Reads no weights and does not import torch.
"""

from pathlib import Path

from bot.models import model_directory
from bot.models.gguf_header import GgufHeader, is_gguf, read_gguf
from bot.models.gguf_names import ENDING, label_of
from bot.models.model_spec import ModelSpec
from bot.types.errors import ConfigError, ModelError


def is_file(path: Path) -> bool:
    """Whether a path names a GGUF file rather than a directory; it need not exist."""
    return path.suffix.lower() == ENDING and not path.is_dir()


def is_whole(path: Path) -> bool:
    """Whether a model is complete: all files are there. Reads no more than config files and the first bytes."""
    return is_gguf(path) if is_file(path) else model_directory.is_whole(path)


def check(path: Path) -> None:
    """Raise ModelError, with one sentence, unless a model is complete, and the header of a GGUF file is readable."""
    if not is_file(path):
        model_directory.check(path)
    elif path.is_file():
        read_gguf(path)
    else:
        raise ModelError(f"There is no file {path}; a file of the hub is named as owner/repo:file.gguf.")


def describe(spec: ModelSpec) -> ModelSpec:
    """Fill in the unknown fields of a `spec` with a `path` from the model there; return other specs unchanged.

    Raises ConfigError if there is no model.
    """
    if not spec.path:
        return spec
    try:
        check(Path(spec.path))
        return from_files(spec, Path(spec.path))
    except ModelError as error:
        raise ConfigError(f"{spec.name}: {error}") from error


def from_files(spec: ModelSpec, path: Path) -> ModelSpec:
    """Fill in the unknown fields of `spec` from the model at `path`. Raises ModelError."""
    return from_header(spec, read_gguf(path), path.name) if is_file(path) else model_directory.from_config(spec, path)


def described(spec: ModelSpec, path: Path | None) -> ModelSpec:
    """Like `from_files` if the size of an installed model is unknown; without a path or on errors, `spec` itself."""
    if path is None or spec.parameters:
        return spec
    try:
        return from_files(spec, path)
    except ModelError:  # doctor reports it
        return spec


def from_header(spec: ModelSpec, header: GgufHeader, file: str) -> ModelSpec:
    """Fill in the unknown fields of `spec` from the header of a GGUF file. file: its name."""
    facts = {
        "parameters": header.parameters,
        "download": header.file_bytes,
        "context_window": header.context_window,
        "layers": header.layers,
        "kv_heads": header.kv_heads,
        "head_dim": header.head_dim,
        "kv_values": header.kv_values,
        "quantization": label_of(file) or header.file_type or "GGUF",
    }
    return spec.model_copy(update={name: fact for name, fact in facts.items() if not getattr(spec, name)})
