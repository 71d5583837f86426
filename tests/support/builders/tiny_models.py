"""Writes tiny random models in the layout of real ones: config, safetensors, tokenizer with a chat template.

`make_tiny(kind, directory)` writes one of KINDS in fp32 and returns the directory. A kind always gets the same weights,
so that tests can compare outputs; the answers are random text. All kinds share one small tokenizer that is trained
here.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

KINDS = ("phi", "phi3", "mistral", "llama")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WINDOW = 512

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = (
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "What is the capital of Norway? Who wrote this, and when? Where are the keys?",
    "system user assistant: answer the question in one short sentence, please.",
    "A quick brown fox jumps over the lazy dog, then the dog sleeps for 1234567890 hours.",
    "def add(first, second):\n    return first + second\n",
    "naïve café, smörgåsbord, 東京, こんにちは, привет, 🙂🚀",
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 400 tokens: encode and decode keep any text unchanged."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[2],
        unk_token=SPECIALS[0],
        additional_special_tokens=[SPECIALS[1]],
        model_max_length=WINDOW,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def _model(kind: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": WINDOW,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,  # wide enough that greedy choices are not near-ties
    }
    configs: dict[str, type[PreTrainedConfig]] = {
        "phi": PhiConfig,
        "phi3": Phi3Config,
        "mistral": MistralConfig,
        "llama": LlamaConfig,
    }
    classes: dict[str, type[PreTrainedModel]] = {
        "phi": PhiForCausalLM,
        "phi3": Phi3ForCausalLM,
        "mistral": MistralForCausalLM,
        "llama": LlamaForCausalLM,
    }
    if kind in {"mistral", "llama"}:
        sizes["num_key_value_heads"] = 2
    if kind == "mistral":
        sizes["sliding_window"] = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KINDS.index(kind) + 1)
        model: PreTrainedModel = classes[kind](configs[kind](**sizes)).eval()
        return model


def make_tiny(kind: str, directory: Path) -> Path:
    """Writes a tiny random model of `kind` (one of KINDS) into `directory` and returns it; makes the directory if
    missing."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    _model(kind, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
