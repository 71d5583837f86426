"""Tests attention over rows: chunked, batched and windowed texts give the same logits as single ones, or are not
used."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from bot.engine.batching.batch import CannotBatch
from bot.engine.batching.row_batch import SequenceChunk, share
from bot.engine.batching.row_cache import BLOCK, Shape, shape_of
from bot.engine.cpu.attention import NAME, ForwardPass, enable_attention, forward
from bot.engine.cpu.attention_groups import group_decode_rows
from bot.engine.cpu.kv_cache import KVCache, Slab, SlabSequence
from bot.models.device_errors import Unrecoverable
from tests.support.builders.tiny_models import KINDS

pytest_plugins = ["tests.support.fixtures.engine"]

SHAPE = Shape(layers=2, heads=1, width=4, dtype=torch.float32)


@given(st.lists(st.integers(2, 3000), max_size=16), st.integers(16, 512))
def test_a_chunk_is_shared_whole_and_the_oldest_always_gets_on(ahead: list[int], budget: int) -> None:
    counts = share(ahead, budget)
    assert sum(counts) == min(sum(ahead), budget)
    assert all(0 <= count <= left for count, left in zip(counts, ahead, strict=True))
    if ahead:
        assert counts[0] >= min(ahead[0], budget // 2)


def test_short_prompts_do_not_wait_for_a_long_one() -> None:
    assert share([2000, 700, 30, 20], 128) == [64, 14, 30, 20]


def loaded(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.inference_mode()
def in_steps(model: PreTrainedModel, texts: Sequence[Sequence[int]], counts: Sequence[int]) -> torch.Tensor:
    """Logits of texts that go through the model together, `counts` tokens of each per step."""
    rows = KVCache(shape_of(model), 16)
    mine = [rows.allocate(text, len(text)) for text in texts]
    for count in counts:
        parts = [
            SequenceChunk(row, text[len(row.ids) : len(row.ids) + count]) for row, text in zip(mine, texts, strict=True)
        ]
        logits = forward(model, parts)
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_batch_and_in_chunks_a_model_says_what_it_says_alone(tiny: dict[str, Path], kind: str) -> None:
    model = loaded(tiny[kind])
    texts = [[(place * step) % model.config.vocab_size for place in range(90)] for step in (3, 5, 11)]
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([text])).logits[:, -1] for text in texts])
    enable_attention(model, model.config.vocab_size)
    assert model.config._attn_implementation == NAME
    found = in_steps(model, texts, [1, 60, 2, 1, 26])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def windowed() -> Any:
    """A model with a sliding window of eight tokens."""
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    torch.manual_seed(3)
    return MistralForCausalLM(config).eval()


def test_a_sliding_window_is_kept() -> None:
    model = windowed()
    text = [(place * 7) % 64 for place in range(60)]
    with torch.inference_mode():
        expected = model(torch.tensor([text])).logits[:, -1]
    enable_attention(model, 64)
    torch.testing.assert_close(in_steps(model, [text], [20, 1, 20, 18, 1]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, torch.nan], ids=["each token sees all", "NaN"])
def test_a_model_with_other_logits_keeps_its_own_attention(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    model = loaded(tiny["llama"])
    monkeypatch.setattr(
        "bot.engine.cpu.attention_groups.attention_mask", lambda last, keys, *_: torch.full((len(last), keys), value)
    )
    with pytest.raises(CannotBatch, match="its logits differ with our attention"):
        enable_attention(model, model.config.vocab_size)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("can't allocate memory"), MemoryError),
        (RuntimeError("CUDA error: unspecified launch failure"), Unrecoverable),
        (TypeError("forward() got an unexpected keyword argument 'step'"), CannotBatch),
    ],
)
def test_what_goes_wrong_with_rows_is_told_apart(
    tiny: dict[str, Path], error: Exception, raised: type[Exception]
) -> None:
    model = loaded(tiny["llama"])

    def fail(module: object, args: object, given: dict[str, Any]) -> None:
        if "step" in given:
            raise error

    model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(raised):
        enable_attention(model, model.config.vocab_size)
    assert model.config._attn_implementation == "sdpa"


@torch.inference_mode()
def side_by_side(model: PreTrainedModel, texts: Sequence[Sequence[int]], between: Sequence[int] = ()) -> torch.Tensor:
    """Logits of texts whose last tokens go through the model in one step; all other tokens of each text go alone.

    between: indices of texts before which another row is allocated.
    """
    rows, mine = KVCache(shape_of(model), 64), list[SlabSequence]()
    for number, text in enumerate(texts):
        if number in between:
            rows.allocate([size_of_nobody(model)], BLOCK)
        mine.append(rows.allocate(text, len(text)))
        forward(model, [SequenceChunk(mine[-1], text[len(mine[-1].ids) : -1])])
    parts = [SequenceChunk(row, text[-1:]) for row, text in zip(mine, texts, strict=True)]
    assert len(ForwardPass(parts, shape_of(model)).calls) == 1
    return forward(model, parts)


def size_of_nobody(model: PreTrainedModel) -> int:
    """A token that no text begins with."""
    return int(model.config.vocab_size) - 1


@pytest.mark.parametrize("between", [(), (1, 2)], ids=["group_decode_rows", "with gaps"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_side_by_side_are_read_in_one_call(
    tiny: dict[str, Path], kind: str, between: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text gives the same logits as alone, whatever the others' lengths."""
    monkeypatch.setattr("bot.engine.cpu.attention.CALL_BYTES", 1 << 24)
    model = loaded(tiny[kind])
    size = model.config.vocab_size
    texts = [[(place * step + step) % size for place in range(length)] for step, length in ((3, 40), (5, 7), (7, 90))]
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([text])).logits[:, -1] for text in texts])
    enable_attention(model, size)
    torch.testing.assert_close(side_by_side(model, texts, between), expected, rtol=1e-4, atol=1e-4)


def test_a_sliding_window_is_kept_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.cpu.attention.CALL_BYTES", 1 << 24)
    model = windowed()
    texts = [[(place * step + step) % 64 for place in range(length)] for step, length in ((7, 60), (5, 4), (3, 9))]
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([text])).logits[:, -1] for text in texts])
    enable_attention(model, 64)
    torch.testing.assert_close(side_by_side(model, texts), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "call", "spans"),
    [
        ([100, 100, 100], 50, [(0, 3)]),
        ([10, 1000], 50, [(0, 1), (1, 2)]),  # the short one would be read at the long one's length
        ([10, 1000], 2000, [(0, 2)]),
        ([100, 90, 1000, 1000], 50, [(0, 2), (2, 4)]),
        ([100], 50, [(0, 1)]),
    ],
)
def test_rows_are_read_together_where_that_is_less_work(
    lengths: list[int], call: int, spans: list[tuple[int, int]]
) -> None:
    slab = Slab(SHAPE, len(lengths), 16)
    parts = [
        SequenceChunk(SlabSequence(2000, [1] * length, slab=slab, place=place), [7])
        for place, length in enumerate(lengths)
    ]
    assert list(group_decode_rows(parts, call)) == spans
    two = [replace(part, ids=[7, 8]) for part in parts]
    assert list(group_decode_rows(two, call)) == [(place, place + 1) for place in range(len(lengths))]


def test_a_model_whose_tokens_see_their_chunk_only_keeps_its_own_attention(tiny: dict[str, Path]) -> None:
    """The logits are equal for short texts, so the trial cannot detect the difference."""
    model = loaded(tiny["llama"])
    model.config.attention_chunk_size = 8192
    with pytest.raises(CannotBatch, match="chunk"):
        enable_attention(model, model.config.vocab_size)
