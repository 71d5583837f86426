"""`python -m bench.quality`: measures how weight formats change the answers.

Computes the perplexity on a text from Python's standard library (its help topics) in pieces of 512 tokens, relative to
float32. Then compares greedy answers to forty questions with float32's: the share of tokens before the first
difference. Target for the default format: perplexity within 1 %.
"""

from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from bench.asking import conversation, options
from bot.engine.text.prompts import PromptBuilder
from bot.models.packing import pack

PIECE, PIECES = 512, 24
QUESTIONS, TOKENS = 40, 32
SUBJECTS = ("the sea", "a lighthouse", "an old clock", "the moon", "a train", "a forest", "a baker", "snow")
ASKED = ("What is {}?", "Tell me about {}.", "Write a poem about {}.", "Give three facts about {}.", "Why is {} there?")


def in_eight_bits(model: nn.Module) -> None:
    """torch's dynamic int8 with a scale per output; evaluated and not used."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, _EightBits(child))


class _EightBits(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-8) / 127
        held = torch.quantize_per_channel(weight, scale.double(), torch.zeros(len(scale)).long(), 0, torch.qint8)
        bias: torch.Tensor | None = linear.bias
        self._packed = torch.ops.quantized.linear_prepack(held, bias)

    def forward(self, line: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(line, self._packed, True)
        return out


WAYS: dict[str, tuple[torch.dtype, Callable[[nn.Module], object]]] = {
    "float32": (torch.float32, lambda model: None),
    "float16 weights (packed)": (torch.float32, lambda model: pack(model, "float16")),
    "bfloat16 (packed)": (torch.bfloat16, lambda model: pack(model, "bfloat16")),
    "bfloat16": (torch.bfloat16, lambda model: None),
    "int8 dynamic": (torch.float32, in_eight_bits),
}


def perplexity(model: Any, ids: torch.Tensor) -> float:
    """Perplexity of pieces [pieces, tokens]."""
    losses = []
    for piece in ids:
        logits = model(piece.unsqueeze(0)).logits[0].float()
        losses.append(cross_entropy(logits[:-1], piece[1:]))
    return float(torch.stack(losses).mean().exp())


def answers(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Greedy answers to all questions."""
    prompts, found = PromptBuilder(tokenizer, "", 2048), []
    for number in range(QUESTIONS):
        text = ASKED[number % len(ASKED)].format(SUBJECTS[number // len(ASKED)])
        ids = torch.tensor([prompts.build(conversation([text]), TOKENS).ids])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        found.append(out[0, ids.shape[1] :].tolist())
    return found


def same(one: list[int], other: list[int]) -> int:
    """Length of the common prefix."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@torch.inference_mode()
def measure(path: Path) -> None:
    """Measures all formats, with one line each."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = "\n".join(topics[name] for name in sorted(topics))
    ids = torch.tensor(tokenizer.encode(text)[: PIECE * PIECES]).view(PIECES, PIECE)
    base, spoken = 0.0, [[0]]
    for name, (dtype, change) in WAYS.items():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        change(model)
        found, said = perplexity(model, ids), answers(model, tokenizer)
        if name == "float32":
            base, spoken = found, said
        agree = sum(same(a, b) for a, b in zip(said, spoken, strict=True)) / sum(map(len, spoken))
        whole = sum(a == b for a, b in zip(said, spoken, strict=True))
        print(
            f"  {name:26} perplexity {found:8.3f} ({found / base - 1:+.2%}); greedy: {agree:.1%} of the tokens the "
            f"same, {whole} of {QUESTIONS} answers whole",
            flush=True,
        )


if __name__ == "__main__":
    measure(options("bench.quality").model)
