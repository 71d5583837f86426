"""Validate a model directory and read its config.json: required files, file sizes, and facts for a `ModelSpec`.

Reads no weights and does not import torch.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from bot.models.experts import idle_parameters
from bot.models.kv_shape import kv_shape
from bot.models.model_spec import ModelSpec
from bot.models.safetensors_header import parameters_of, read_tensors
from bot.types.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
PICTURE_FILES = ("preprocessor_config.json", "processor_config.json")
"""Of which a model that sees needs one."""
SIDE_FILES = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    *PICTURE_FILES,
)
"""The files besides the weights that a model may need; no other file of a repository is downloaded."""

TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
"""Where the config of a model that also takes images or sound keeps the facts about its language model."""

BYTES_PER_PARAMETER = {"fp8": 1.0, "mxfp4": 0.53}
"""Bytes in the files of quantized formats whose weights may be expanded to 16 bits; others keep their size."""

QUANTIZERS = {
    "bitsandbytes": "bitsandbytes",
    "awq": "gptqmodel",
    "gptq": "gptqmodel",
    "compressed-tensors": "compressed_tensors",
    "quanto": "optimum.quanto",
    "aqlm": "aqlm",
    "hqq": "hqq",
    "torchao": "torchao",
    "auto-round": "auto_round",
    "quark": "quark",
    "modelopt": "modelopt",
}
"""The package that transformers needs to load weights quantized with a method."""

VLLM_METHODS = frozenset(
    {"awq", "gptq", "fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "bitsandbytes", "modelopt", "quark"}
    | {"torchao", "auto-round"}
)
"""The quantized formats that vLLM loads; it refuses others (quanto, aqlm, hqq, ...)."""

NEEDS_GPU = {
    "auto": frozenset({"awq", "gptq"}),
    "vllm": frozenset({"awq", "gptq", "fp8", "mxfp4", "bitsandbytes", "modelopt"}),
}
"""The quantized formats that an engine runs with a CUDA GPU only."""

MB = 1 << 20
MOST_BYTES = {
    "tokenizer.json": 256 * MB,
    "tokenizer.model": 256 * MB,
    "vocab.json": 256 * MB,
    "merges.txt": 256 * MB,
    "chat_template.json": MB,
}
"""Size limits of files that are read into memory; the largest known tokenizer has 35 MB. Others: OTHER_BYTES."""
OTHER_BYTES = 32 * MB
"""With 65,536 special tokens, tokenizer_config.json has 12 MB."""

MOST_GROUPS = 1000

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def indexed(index: Path) -> tuple[str, ...]:
    """Return the weight files that an index lists, sorted. Raises ModelError if the index is not valid."""
    content = read_json(index)
    weights = content.get("weight_map")
    names = sorted({str(name) for name in weights.values()}) if isinstance(weights, dict) else []
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise ModelError(f"{index} does not say which safetensors files hold the weights; fetch the model again.")
    return tuple(names)


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the safetensors files of the model in `folder`: those in its index, or the single file.

    Raises ModelError if there are none or some are missing.
    """
    if (folder / INDEX).is_file():
        names = indexed(folder / INDEX)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder} lacks {len(missing)} of {len(names)} weight files, such as {missing[0]}.")
        return names
    if (folder / SINGLE).is_file():
        return (SINGLE,)
    raise ModelError(f"{folder} holds no safetensors weights (other formats can run code, and are not loaded).")


def check(folder: Path) -> None:
    """Raise ModelError, with one sentence, unless `folder` holds a complete model."""
    if not folder.is_dir():
        raise ModelError(f"There is no directory {folder}.")
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} holds no model: it has no {CONFIG}.")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"{folder} has no tokenizer: one of {', '.join(TOKENIZERS)}.")
    weight_files(folder)


def check_sizes(folder: Path) -> None:
    """Raise ModelError if a side file exceeds its size limit; side files are read into memory whole."""
    more_templates = (folder / "additional_chat_templates").glob("*.jinja")
    for file in (*(folder / name for name in SIDE_FILES), *more_templates):
        most = MB if file.suffix == ".jinja" else MOST_BYTES.get(file.name, OTHER_BYTES)
        if file.is_file() and file.stat().st_size > most:
            raise ModelError(
                f"{file} has {file.stat().st_size // MB:,} MB, and at most {most // MB} are read of such a file; fetch"
                " the model again, or choose another one."
            )


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a complete model."""
    try:
        check(folder)
    except ModelError:
        return False
    return True


def from_config(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Fill in the unknown fields of `spec` from the model in `folder`. Raises ModelError."""
    config = text_config(read_json(folder / CONFIG))
    size = sum((folder / name).stat().st_size for name in weight_files(folder))
    method = quantization_method(config)
    width = BYTES_PER_PARAMETER.get(method, 2.0)
    if config.get("dtype", config.get("torch_dtype")) == "float32":
        width = 4.0
    tied = config.get("tie_word_embeddings") is True
    heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    kept, idle = kv_shape(config), idle_parameters(config)
    stored = spec.parameters or (_stored_parameters(folder, config) if method else int(size / width))
    facts = {
        "parameters": stored,
        "active": max(0, stored - idle) if idle else 0,
        "vision": isinstance(config.get("vision_config"), dict),
        "embeddings": _count(config, "vocab_size") * hidden * (1 if tied else 2),
        "tied": tied,
        "download": size,
        "context_window": _count(config, "max_position_embeddings"),
        "layers": _count(config, "num_hidden_layers"),
        "kv_heads": _count(config, "num_key_value_heads") or heads,
        "head_dim": _count(config, "head_dim") or hidden // max(heads, 1),
        "kv_values": kept.values,
        "sliding_values": kept.sliding_values,
        "sliding_window": kept.window,
        "state_values": kept.state_values,
        "quantization": method,
    }
    return spec.model_copy(update={name: fact for name, fact in facts.items() if not getattr(spec, name)})


def _stored_parameters(folder: Path, config: dict[str, object]) -> int:
    """The number of weights of a quantized model by the headers of its files, or an estimate by their size."""
    try:
        tensors = [tensor for name in weight_files(folder) for tensor in read_tensors(folder / name)]
    except ModelError:  # damaged, which doctor reports
        width = BYTES_PER_PARAMETER.get(quantization_method(config), 2.0)
        return int(sum((folder / name).stat().st_size for name in weight_files(folder)) / width)
    return parameters_of(tensors, quantized_bits(config))


def sees(folder: Path) -> bool:
    """Whether the model in `folder` reads pictures, and the files that say how it does are here. Raises ModelError."""
    return "vision_config" in read_json(folder / CONFIG) and any((folder / name).is_file() for name in PICTURE_FILES)


def lacks_picture_files(folder: Path) -> bool:
    """Whether the model in `folder` would read pictures if the files that say how it does were here."""
    return "vision_config" in read_json(folder / CONFIG) and not sees(folder)


def text_config(config: dict[str, object]) -> dict[str, object]:
    """Return a config with the facts about its language model at the top level."""
    for name in TEXT_CONFIGS:
        nested = config.get(name)
        if isinstance(nested, dict):
            return config | nested
    return config


def quantization_method(config: dict[str, object]) -> str:
    """Return the method with which a repository's weights are quantized, in small letters; '' if they are not."""
    found = text_config(config).get("quantization_config", config.get("quantization_config"))
    if not isinstance(found, dict):
        return ""
    method = found.get("quant_method")
    if isinstance(method, str):
        return method.lower()
    return "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else ""


def quantized_bits(config: dict[str, object]) -> int:
    """Bits of a quantized weight, as the config states them, else 4."""
    found = text_config(config).get("quantization_config", config.get("quantization_config"))
    places: list[object] = [found]
    for place in places:
        if not isinstance(place, dict) or len(places) > MOST_GROUPS:
            continue
        for key in ("bits", "w_bit", "num_bits"):
            bits = place.get(key)
            if isinstance(bits, int) and 1 <= bits <= 16:
                return bits
        groups = place.get("config_groups")
        places += [*groups.values()] if isinstance(groups, dict) else [place.get("weights")]
    return 4


def has_package(method: str) -> bool:
    """Whether the package that transformers needs for a method is installed; true if it needs none."""
    package = QUANTIZERS.get(method)
    return package is None or _is_installed(package)


def needs_gpu(method: str, engine: str) -> bool:
    """Whether an engine runs weights quantized with a method on a CUDA GPU only."""
    return method in NEEDS_GPU.get(engine, ())


def quantization_advice(name: str, method: str) -> str:
    """Return what to do instead of loading weights that are quantized with a method."""
    if method == "bitsandbytes" and find_spec("bitsandbytes") is None:
        return (
            f"The weights of {name} are quantized with bitsandbytes, which is not installed: run pip install"
            " 'inhouse[quantize]', or use the original repository of the model."
        )
    other = " With a GPU, INHOUSE_ENGINE=vllm may run them as they are." if method in VLLM_METHODS else ""
    return (
        f"The weights of {name} are quantized already ({method}), and cannot be loaded here. Use the original"
        f" repository of the model; INHOUSE_QUANTIZATION=4bit or 8bit quantizes its weights during the load.{other}"
    )


def check_quantization(name: str, config: dict[str, object]) -> None:
    """Raise ModelError, with advice, if the weights are quantized with a method whose package is not installed."""
    method = quantization_method(config)
    if not has_package(method):
        raise ModelError(quantization_advice(name, method))


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # the package above it is missing
        return False


def read_json(file: Path) -> dict[str, object]:
    """Read a JSON file that holds an object. Raises ModelError."""
    try:
        content: object = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged; fetch the model again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged; fetch the model again.")
    return content


def _count(config: dict[str, object], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else 0
