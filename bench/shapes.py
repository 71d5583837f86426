"""Writes models at their real size with random weights, for a machine without network.

Writes config, sharded safetensors and a tokenizer for a name of SHAPES, as a download leaves them. Answers are random
text; all sizes are real: layers, heads, vocabulary, window, bytes of the weights.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

SHAPES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {  # Any: a config's fields
    "phi-4": (
        Phi3Config,
        {
            "vocab_size": 100_352,
            "hidden_size": 5120,
            "intermediate_size": 17_920,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 10,
            "max_position_embeddings": 16_384,
            "original_max_position_embeddings": 16_384,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 250_000.0, "partial_rotary_factor": 1.0},
        },
    ),
    "phi-2": (
        PhiConfig,
        {
            "vocab_size": 51_200,
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "resid_pdrop": 0.1,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.4},
        },
    ),
    "mistral-7b-instruct-v0.3": (
        MistralConfig,
        {
            "vocab_size": 32_768,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "sliding_window": None,
            "tie_word_embeddings": False,
        },
    ),
}

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = "the keeper of the lighthouse wrote a long letter about the sea and the ships and the weather of that evening"


def config_of(name: str, layers: int | None = None, **more: object) -> PreTrainedConfig:
    """The configuration of the model `name`; `layers` replaces its number of layers."""
    kind, sizes = SHAPES[name]
    return kind(**(sizes | more | ({"num_hidden_layers": layers} if layers else {})))


def write(name: str, folder: Path, device: str, layers: int | None = None, **more: object) -> Path:
    """Writes the model `name` in bfloat16 into `folder`, created on `device`; `layers` and `more` replace fields of its
    config."""
    config = config_of(name, layers, bos_token_id=0, eos_token_id=2, pad_token_id=0, **more)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="5GB")
    tokenizer(config.vocab_size).save_pretrained(folder)
    return folder


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each of `size` ids decodes to text, so that random ids are text too."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([WORDS] * 3, trainer)
    known = bpe.get_vocab()
    filled = known | {f"Ġw{number}": number for number in range(len(known), size)}
    whole = Tokenizer(models.BPE(vocab=filled, merges=_merges(bpe)))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=whole,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[2],
        additional_special_tokens=[SPECIALS[1]],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    return made


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    return [(first, second) for first, second in json.loads(bpe.to_str())["model"]["merges"]]
