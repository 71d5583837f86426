"""Writes Phi-4, Phi-2 and Mistral-7B-Instruct-v0.3 at full width, with one or two layers, as a download leaves them.

`write_real(name, directory)` writes the real configuration except for the number of layers, the real special tokens and
window, and random weights in the dtype of the real files, in several shards with an index. The weights of a model are
always the same. Some rows are set to token chains: after the first token of a chain, greedy decoding follows the chain
to its end, so that an answer ends with the token under test.

Mistral's tokenizer is the real one. Of the others, only the special tokens, their ids and the vocabulary size are real;
the rest is a small byte-level BPE and filler tokens.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from bench.shapes import config_of
from bot.models.catalog import BUILT_IN
from bot.models.model_spec import ModelSpec, read_specs
from tests.support.builders.prompt_tokenizers import PHI_4, mistral, wrapped

NOISE = 4_194_319
"""Number of random values, repeated to fill a tensor; a prime, so that no two rows of a matrix are equal."""

SHARD = 200_000_000
"""Shard size limit in bytes."""

WIDTH = 0.02


@dataclass(frozen=True)
class Real:
    """One model to write. special: special token ids of its config. ends: all ids that end an answer."""

    name: str
    layers: int
    dtype: torch.dtype
    special: dict[str, int]
    ends: tuple[int, ...]
    chains: tuple[tuple[str, ...], ...]

    @property
    def spec(self) -> ModelSpec:
        """The model's entry in the built-in catalog."""
        return next(spec for spec in read_specs(BUILT_IN) if spec.name == self.name)


PHI_4_FIM = {100_258: "<|fim_prefix|>", 100_259: "<|fim_middle|>", 100_260: "<|fim_suffix|>"}
PHI_4_TALK = {100_257: "<|endoftext|>", 100_264: "<|im_start|>", 100_265: "<|im_end|>", 100_266: "<|im_sep|>"}
PHI_4_NAMED = PHI_4_FIM | PHI_4_TALK | {100_276: "<|endofprompt|>"}

REALS = {
    real.name: real
    for real in (
        Real(
            "phi-4",
            1,
            torch.bfloat16,
            {"bos_token_id": 100_257, "eos_token_id": 100_265, "pad_token_id": 100_349},
            (100_265, 100_257),
            (("Ġred", "Ġgreen", "Ġblue", "<|im_end|>"), ("Ġoak", "Ġelm", "<|endoftext|>")),
        ),
        Real(
            "phi-2",
            2,
            torch.float16,
            {"bos_token_id": 50_256, "eos_token_id": 50_256},
            (50_256,),
            (("Ġred", "Ġgreen", "Ġblue", "<|endoftext|>"), ("Ġoak", "Ġelm", "ĊInstr", "uct:", "Ġash")),
        ),
        Real(
            "mistral-7b-instruct-v0.3",
            2,
            torch.bfloat16,
            {"bos_token_id": 1, "eos_token_id": 2},
            (2,),
            (("▁red", "▁green", "▁blue", "</s>"),),
        ),
    )
}


def write_real(real: Real, folder: Path) -> Path:
    """Writes a model into `folder` and returns it; makes the folder if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(real.name)
    tokenizer.save_pretrained(folder)
    config = config_of(real.name, real.layers, **real.special)
    config.architectures = [_skeleton(config).__class__.__name__]
    config.dtype = real.dtype
    config.save_pretrained(folder)
    GenerationConfig(**(real.special | {"eos_token_id": list(real.ends)})).save_pretrained(folder)
    planted = _planted(real, tokenizer, config)
    _write_shards(folder, _tensors(_skeleton(config), real.dtype, planted))
    return folder


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer, with every special token at its real id."""
    if name == "mistral-7b-instruct-v0.3":
        return mistral()
    if name == "phi-2":
        blanks = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]
        tokenizer = wrapped(_filled(50_256, {50_256: "<|endoftext|>"}), "<|endoftext|>", None)
        tokenizer.add_tokens([AddedToken(blank, normalized=True, special=False) for blank in blanks])
        return tokenizer
    rest = [number for number in range(100_256, 100_352) if number not in PHI_4_NAMED]
    dummies = {number: f"<|dummy_{order}|>" for order, number in enumerate(rest)}
    tokenizer = wrapped(_filled(100_256, PHI_4_NAMED | dummies), "<|im_end|>", PHI_4)
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>", "pad_token": "<|dummy_85|>"})
    return tokenizer


def _filled(size: int, specials: dict[int, str]) -> Tokenizer:
    """A byte-level BPE of `size` ids, with the special tokens after them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([WORDS] * 3, trainer)
    known = bpe.get_vocab()
    extra = dict(zip(("ĊInstr", "uct:"), range(len(known), len(known) + 2), strict=True))
    known |= extra
    known |= {f"Ġw{number}": number for number in range(len(known), size)}
    known |= {text: number for number, text in specials.items()}
    merges = [(first, second) for first, second in json.loads(bpe.to_str())["model"]["merges"]]
    whole = Tokenizer(models.BPE(vocab=known, merges=merges))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in specials.values()])
    return whole


WORDS = (
    "the keeper of the lighthouse wrote a letter about the sea and the sea and the weather of that evening;"
    " red green blue oak elm ash. What is the capital of France? Who wrote this, and when? And then?"
)


def _skeleton(config: PreTrainedConfig) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(config)
        return model


Rows = dict[tuple[str, int], torch.Tensor]
"""Replaced rows, by matrix name and row number."""


def _planted(real: Real, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> Rows:
    """Rows that make greedy decoding follow the chains: a token's embedding, and its successor's lm_head row along
    it."""
    rows: Rows = {}
    generator = torch.Generator().manual_seed(1)
    for chain in real.chains:
        ids = tokenizer.convert_tokens_to_ids(list(chain))
        assert isinstance(ids, list)
        for before, after in pairwise(ids):
            loud = torch.randn(config.hidden_size, generator=generator)
            rows["model.embed_tokens.weight", before] = loud
            rows["lm_head.weight", after] = loud * WIDTH
    return rows


def _tensors(skeleton: torch.nn.Module, dtype: torch.dtype, planted: Rows) -> Iterator[tuple[str, torch.Tensor]]:
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(2)).mul_(WIDTH).to(dtype)
    for number, (name, parameter) in enumerate(skeleton.named_parameters()):
        flat = torch.empty(parameter.numel(), dtype=dtype)
        turned = noise.roll(number * 104_729)
        for start in range(0, flat.numel(), NOISE):
            flat[start : start + NOISE] = turned[: flat.numel() - start]
        tensor = flat.view(parameter.shape)
        if "norm" in name and name.endswith("weight"):
            tensor += 1
        for (matrix, row), values in planted.items():
            if matrix == name:
                tensor[row] = values.to(dtype)
        yield name, tensor


def _write_shards(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    where: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    number = 1

    def write() -> None:
        nonlocal number
        file = f"model-{number:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, file))
        shard.clear()
        number += 1

    for name, tensor in tensors:
        shard[name] = tensor
        if sum(part.nbytes for part in shard.values()) > SHARD:
            write()
    write()
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
