"""Builds tokenizers, chat templates and turns for tests of prompts and decoding.

Mistral's tokenizer is the real one from mistral-common's wheel. The byte-level ones are trained here on a few lines,
with the special tokens of the model whose template they use.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import mistral_common
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from bot.types.messages import Prompt, Role, Turn

CORPUS = (
    "The capital of France is Paris, and the capital of Japan is Tokyo. Instruct: Output: user assistant system",
    "You are a helpful assistant. Answer in one short sentence, please: what is 1 + 1, and who wrote it?",
    "naïve café, smörgåsbord, 東京, こんにちは, привет, 🙂🚀",
)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI_4 = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
PHI_4_EARLY = (  # adds an assistant header after every user turn, requested or not
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    "{% endfor %}"
)
PHI_4_TWICE = (  # as above, and each assistant turn and the generation prompt repeat the header
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{% if message['role'] == 'user' %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
LLAMA_3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = (  # role markers that its tokenizer does not know
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
MISTRAL = (  # no system role; rejects two turns of one role in a row
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)

CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PHI_4_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|dummy_0|>")
LLAMA_3_TOKENS = (
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)


@cache
def _trained(specials: Sequence[str]) -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 3, trainer)
    return bpe.to_str()


def byte_level(
    template: str | None, specials: Sequence[str] = CHATML_TOKENS, added: Sequence[AddedToken] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE; the first of `specials` ends a sequence, `added` are extra non-special tokens."""
    tokenizer = wrapped(Tokenizer.from_str(_trained(tuple(specials))), specials[0], template)
    tokenizer.add_tokens(list(added))
    return tokenizer


def wrapped(backend: Tokenizer, eos: str, template: str | None) -> PreTrainedTokenizerFast:
    """Wraps a tokenizer of the `tokenizers` library for transformers."""
    how = {"tokenizer_object": backend, "eos_token": eos, "chat_template": template}
    make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast  # its own __init__ has no types
    return make(**how, clean_up_tokenization_spaces=False)


def mistral_file() -> Path:
    """The SentencePiece model of Mistral's tokenizer v3 (Mistral-7B-Instruct-v0.3)."""
    data = Path(mistral_common.__file__).parent / "data"
    (file,) = data.glob("mistral_instruct_tokenizer_*.model.v3")
    return file


@cache
def mistral() -> LlamaTokenizer:
    """Mistral's tokenizer v3 as a transformers tokenizer."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(mistral_file()))
    vocab = {pieces.id_to_piece(number): number for number in range(pieces.vocab_size())}
    scores = {piece: pieces.get_score(number) for piece, number in vocab.items()}
    control = [piece for piece, number in vocab.items() if pieces.is_control(number)]
    return LlamaTokenizer(
        vocab=vocab,
        merges=generate_merges(vocab, scores),
        extra_special_tokens=[AddedToken(piece, normalized=False, special=True) for piece in control],
        chat_template=MISTRAL,
    )


def user(text: str, author: str = "Ana") -> Turn:
    """A user turn."""
    return Turn(Role.USER, author, text, "", 0.0)


def bot(text: str) -> Turn:
    """An assistant turn."""
    return Turn(Role.ASSISTANT, "", text, "", 0.0)


def ask(*turns: Turn, system: str = "", prefix: str = "") -> Prompt:
    """A prompt of these turns."""
    return Prompt(system, turns, prefix)
