"""Load a model and its tokenizer from a directory, in the engine's process.

The only module that loads weights. Uses local files only, never runs code of a repository, reads only safetensors and
prints nothing. Failures are ModelError with one sentence, or Unrecoverable if the device is lost.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from bot.models import model_directory
from bot.models.device_errors import Unrecoverable, classify
from bot.models.format_choice import measured
from bot.models.hardware import Hardware, choose_dtype, detect, is_packed
from bot.models.packing import pack, packed_bytes
from bot.models.picture_processor import CPU_SIDE, PictureProcessor, load_processor
from bot.models.progress import OnProgress, progress_bars_to
from bot.models.tokenizer import read_tokenizer
from bot.types.engine import LoadProgress, ModelSource
from bot.types.errors import ModelError

Report = Callable[[LoadProgress], None]

WEIGHTS_BEGIN, WEIGHTS_END = 0.1, 0.85
"""The range of the load's progress (0 to 1) that reading the weights covers."""

EXPANDED = ("fp8", "mxfp4")
"""Quantized formats whose weights transformers expands to the model's dtype where the device does not support them."""

SMALL_BYTES = 64 << 20
"""Weights up to this size are fast in any format, so that nothing is measured for them."""

OWN_FILES = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class TransformersModel:
    """A loaded model. offloaded: some layers are in RAM. note: a hint for the operator, or ''.

    multimodal: its class takes pictures, too; pictures: its processor if it can see.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    hardware: Hardware
    dtype: str
    offloaded: bool
    note: str
    multimodal: bool = False
    pictures: PictureProcessor | None = None


def load(
    source: ModelSource, progress: Report, check: Callable[[PreTrainedTokenizerBase], None] | None = None
) -> TransformersModel:
    """Load a model. Raises ModelError, and Unrecoverable if the device is lost; keeps nothing in memory then.

    check: called with the tokenizer before the weights are read; may raise ModelError.
    """
    progress(LoadProgress("looking at the hardware", 0.0))
    # cuDNN's attention builds a plan for each new shape, and each step of a batch has one: 6 ms a layer on an H100.
    torch.backends.cuda.enable_cudnn_sdp(False)
    cache_dir = Path(source.cache_dir) if source.cache_dir else None
    hardware = detect("cpu" if source.gpu_layers == 0 else source.device, cache_dir=cache_dir)
    folder = Path(source.path)
    model_directory.check(folder)
    model_directory.check_sizes(folder)
    for name in (model_directory.CONFIG, "tokenizer_config.json"):
        if (folder / name).is_file():
            model_directory.read_json(folder / name)
    own_quantization = _checked_quantization(source)
    quantization = own_quantization or source.quantization
    if source.dtype == "auto" and quantization == "none" and cache_dir is not None and _is_worth_measuring(folder):
        hardware = measured(hardware, cache_dir, lambda: progress(LoadProgress("measuring the processor", 0.01)))
    dtype = choose_dtype(source.dtype, hardware, quantization)
    packs = is_packed(dtype, hardware, quantization)
    with translate_load_errors(source), progress_bars_to(_report_weights(progress)):
        progress(LoadProgress("reading the tokenizer", 0.02))
        config = AutoConfig.from_pretrained(folder, **OWN_FILES)
        tokenizer = read_tokenizer(folder)
        if check is not None:
            check(tokenizer)
        pictures, why_blind = load_processor(folder, config, tokenizer, 0 if hardware.gpu else CPU_SIDE)
        multimodal = pictures is not None or _is_only_multimodal(config)
        auto = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        device_map = device_map_of(source, config, hardware, multimodal=multimodal)
        split = len(set(device_map.values())) > 1
        packs = packs and not split  # layers that are brought in to compute keep their matrices
        progress(LoadProgress("loading weights", WEIGHTS_BEGIN))
        found = auto.from_pretrained(
            folder,
            config=config,
            # "auto" maps the file without a copy; pack() converts.
            dtype="auto" if packs and dtype == "float16" else getattr(torch, dtype),
            device_map=device_map,
            attn_implementation="sdpa",
            quantization_config=quantization_of("none" if own_quantization else source.quantization, dtype, split),
            use_safetensors=True,
            output_loading_info=True,
            **OWN_FILES,
        )
        # transformers' annotations omit the tuple that output_loading_info returns.
        model, seen = cast(tuple[PreTrainedModel, dict[str, Collection[object]]], found)
        if seen["missing_keys"] or seen["mismatched_keys"]:
            if own_quantization:
                raise ModelError(model_directory.quantization_advice(source.name, own_quantization))
            raise ModelError(f"The weights in {folder} do not belong to its config.json; {_repair_hint(source)}.")
        model.eval()
        # Without support for these formats transformers expands the weights, but leaves other tensors in their dtype.
        expanded = own_quantization in EXPANDED and getattr(model.config, "quantization_config", None) is None
        if expanded:
            cast(nn.Module, model).to(getattr(torch, dtype))
        if packs:
            pack(model, dtype)
    note = f"{_note(source, hardware, split, own_quantization if expanded else '')} {why_blind}".strip()
    return TransformersModel(model, tokenizer, hardware, dtype, split, note, multimodal, pictures)


def weights_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights and buffers, including packed matrices and the scales of 4-bit weights."""
    states = (getattr(weight, "quant_state", None) for weight in model.parameters())
    scales = sum(int(state.absmax.nbytes) for state in states if state is not None)
    return sum(numbers.nbytes for numbers in (*model.parameters(), *model.buffers())) + packed_bytes(model) + scales


def layer_map(config: PreTrainedConfig, on_gpu: int, *, multimodal: bool = False) -> dict[str, int | str]:
    """Build accelerate's device_map: the first `on_gpu` decoder layers and all other modules on GPU 0, the remaining
    layers on the CPU.

    Raises ModelError if the decoder layers cannot be identified.
    """
    auto: Any = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM  # its signature is not typed
    with torch.device("meta"):
        skeleton = auto.from_config(config)
    count = int(config.get_text_config().num_hidden_layers)
    layers = _stack(skeleton, count)
    if not layers:
        raise ModelError("The decoder layers of this model could not be identified. Unset INHOUSE_GPU_LAYERS for it.")
    placed: dict[str, int | str] = {}
    above = ""
    for part in layers.split("."):
        beside = [name for name, _ in skeleton.get_submodule(above).named_children() if name != part]
        placed |= {f"{above}.{name}".lstrip("."): 0 for name in beside}
        above = f"{above}.{part}".lstrip(".")
    return placed | {f"{layers}.{number}": 0 if number < on_gpu else "cpu" for number in range(count)}


def layers_of(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """The decoder layers of a model, or the whole model as one item if they cannot be identified.

    Those of the part that reads pictures are among them if it has one.
    """
    name = _stack(model, int(model.config.get_text_config().num_hidden_layers))
    decoder = set(cast(nn.Module, model.get_decoder()).modules())
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and module not in decoder]
    beside = [layer for stack in stacks for layer in stack] if hasattr(model.config, "vision_config") else []
    return [*(model.get_submodule(name).children() if name else [model]), *beside]


def _stack(model: PreTrainedModel, count: int) -> str:
    """The name of the ModuleList with `count` entries, or ''; one of the decoder, if it has one."""
    decoder = set(cast(nn.Module, model.get_decoder()).modules())
    stacks = [
        (module not in decoder, name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    return min(stacks, key=lambda stack: stack[0], default=(True, ""))[1]


def _is_only_multimodal(config: PreTrainedConfig) -> bool:
    """Whether transformers has a class for text and pictures, and none for text alone."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING


def device_map_of(
    source: ModelSource, config: PreTrainedConfig, hardware: Hardware, *, multimodal: bool = False
) -> dict[str, int | str]:
    """Return the device of each part of a model: one device for all, or GPU and RAM by layer."""
    if not hardware.gpu:
        return {"": "cpu"}
    count = int(config.get_text_config().num_hidden_layers)
    if source.gpu_layers is None or source.gpu_layers >= count:
        return {"": 0}
    return layer_map(config, source.gpu_layers, multimodal=multimodal)


def _is_worth_measuring(folder: Path) -> bool:
    return sum((folder / name).stat().st_size for name in model_directory.weight_files(folder)) > SMALL_BYTES


def _checked_quantization(source: ModelSource) -> str:
    """Return the method with which the weights on disk are quantized, or ''. Raises ModelError if it cannot be used."""
    config = model_directory.read_json(Path(source.path) / model_directory.CONFIG)
    model_directory.check_quantization(source.name, config)
    return model_directory.quantization_method(config)


def quantization_of(kind: str, dtype: str, split: bool) -> BitsAndBytesConfig | None:
    """The bitsandbytes configuration, or None. split: some layers are in RAM, where they are not quantized."""
    if kind == "none":
        return None
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"INHOUSE_QUANTIZATION={kind} needs bitsandbytes, which is not installed: pip install 'inhouse[quantize]'."
        )
    # It logs for every product that bfloat16 is cast to float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # Only for split models: this leaves all modules on the CPU unquantized, thus a whole model on the CPU.
    offload = {"llm_int8_enable_fp32_cpu_offload": split}
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, **offload)
    compute = getattr(torch, dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute, **offload)


def _note(source: ModelSource, hardware: Hardware, offloaded: bool, expanded: str) -> str:
    notes = []
    if offloaded:
        notes.append(f"{source.gpu_layers} layers are on the GPU and the rest in RAM, which is slow.")
    elif not hardware.gpu:
        notes.append(f"The CPU is used: {hardware.why_cpu}.")
        if source.gpu_layers:
            notes.append(f"INHOUSE_GPU_LAYERS={source.gpu_layers} has no effect.")
    if expanded:
        notes.append(f"The {expanded} weights were expanded, because this machine does not support {expanded}.")
    return " ".join(notes)


def _report_weights(progress: Report) -> OnProgress:
    def on_progress(done: int, total: int) -> None:
        reached = WEIGHTS_BEGIN + (WEIGHTS_END - WEIGHTS_BEGIN) * done / total
        progress(LoadProgress("loading weights", reached))

    return on_progress


@contextmanager
def translate_load_errors(source: ModelSource) -> Iterator[None]:
    """Translate exceptions of transformers, safetensors and torch into ModelError with one sentence.

    Raises Unrecoverable if the device is lost.
    """
    try:
        yield
    except ModelError:
        raise
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ModelError(f"A file in {source.path} is damaged ({_line(error)}); {_repair_hint(source)}.") from error
    except Exception as error:
        failure = classify(error)
        if failure.device_lost:
            raise Unrecoverable(failure.why) from error
        method = _checked_quantization(source)
        if failure.memory:
            raise ModelError(_no_memory(source, method)) from error
        advice = model_directory.quantization_advice(source.name, method) if method else _sentence(source, error)
        raise ModelError(advice) from error


def _sentence(source: ModelSource, error: Exception) -> str:
    said = str(error)
    if "does not recognize this architecture" in said or "Unrecognized configuration class" in said:
        return (
            f"{source.name} has an architecture that this version of transformers cannot load. Update transformers, or"
            " choose another model."
        )
    if "trust_remote_code" in said:
        return (
            f"{source.name} can only be loaded by running its own code, which Inhouse never does. Choose another model."
        )
    if "does not support an attention implementation" in said:
        return f"{source.name} does not support SDPA attention, which Inhouse needs. Choose another model."
    if "size mismatch" in said or "ignore_mismatched_sizes" in said or "mismatch" in type(error).__name__.lower():
        return f"The weights in {source.path} do not belong to its config.json; {_repair_hint(source)}."
    return f"{source.name} cannot be loaded from {source.path} ({_line(error)}); {_repair_hint(source)}."


def _no_memory(source: ModelSource, method: str) -> str:
    if method in EXPANDED:
        return (
            f"There is not enough memory for {source.name}: where {method} is not supported, its weights need room"
            " as bfloat16. Choose a smaller model."
        )
    if method:
        return f"There is not enough memory for {source.name}, although it is quantized: choose a smaller model."
    return (
        f"There is not enough memory for {source.name}: choose a smaller model, set INHOUSE_QUANTIZATION=4bit, or keep"
        " fewer layers on the GPU with INHOUSE_GPU_LAYERS."
    )


def _repair_hint(source: ModelSource) -> str:
    """How to repair a broken directory. A snapshot in the hub's cache only holds links, so its parent is deleted."""
    folder = Path(source.path)
    if folder.parent.name == "snapshots":
        return f"delete {folder.parents[1]} and run `inhouse pull {source.name}`"
    again = f"run `inhouse pull {source.name}`"
    return f"replace it with a complete model, or, if Inhouse downloaded it, delete it and {again}"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
