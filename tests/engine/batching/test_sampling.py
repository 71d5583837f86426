"""Tests that our sampler keeps the same tokens as transformers' processors, and draws with the right probabilities."""

from typing import cast

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bot.engine.batching.sampling import (
    PREFILTERS,
    RequestSampler,
    apply_presence_penalty,
    apply_repetition_penalty,
    mark_samples,
    sample,
    top_candidates,
)
from bot.types.messages import SamplingParams

PREFILTER = PREFILTERS[0]
VOCABULARY = 1000


def warped(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float = 0.0) -> torch.Tensor:
    """The logits that generate() would sample from."""
    ids = torch.zeros((logits.size(0), 0), dtype=torch.int64)
    scores: torch.Tensor = TemperatureLogitsWarper(temperature)(ids, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(cast(torch.LongTensor, ids), cast(torch.FloatTensor, scores))
    return scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 40, PREFILTER - 1, PREFILTER, 900])
def test_what_is_kept_is_what_transformers_keeps(top_k: int, top_p: float, spread: float, dtype: torch.dtype) -> None:
    """bfloat16 has many equal logits, so the cut-off often falls within a tie."""
    logits = (torch.randn(6, VOCABULARY) * spread).to(dtype).float()
    expected = warped(logits, 0.7, top_k, top_p)
    cut = torch.full((6,), top_k), torch.full((6,), top_p)
    for width in (PREFILTER, VOCABULARY):
        kept, ids, complete = top_candidates(logits / 0.7, *cut, width)
        scattered = torch.full_like(logits, -torch.inf).scatter(-1, ids, kept)
        for row in complete.nonzero().flatten().tolist():
            ours, theirs = values(scattered[row]), values(expected[row])
            # Rounding may move the top-p cut-off by one token; within a tie the sampler is free.
            assert abs(len(ours) - len(theirs)) <= (top_p < 1)
            shorter = min(len(ours), len(theirs))
            assert torch.equal(ours[:shorter], theirs[:shorter])
    assert complete.all()


def values(row: torch.Tensor) -> torch.Tensor:
    """The kept logits of one row, highest first."""
    return row[row > -torch.inf].sort(descending=True).values


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(0, 1.0, 0.0), (0, 0.8, 0.0), (3, 1.0, 0.0), (5, 0.9, 0.0), (0, 1.0, 0.3), (0, 0.9, 0.2), (6, 1.0, 0.5)],
)
def test_draws_follow_the_softmax_of_what_is_kept(top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(1, 12)
    chances = warped(logits, 1.0, top_k, top_p, min_p).softmax(-1)[0]
    count = 40_000
    cut = torch.full((count,), top_k), torch.full((count,), top_p), torch.full((count,), min_p)
    drawn = sample(logits.expand(count, -1).contiguous(), *cut)
    seen = torch.bincount(drawn, minlength=12) / count
    assert (seen - chances).abs().max() < 0.02
    assert (seen[chances == 0] == 0).all()


@pytest.mark.parametrize("spread", [0.1, 1.0, 2.0, 5.0])
def test_draws_stay_within_what_is_kept_however_flat_the_logits_are(spread: float) -> None:
    """Among hundreds of tokens, thousands, and all."""
    logits = torch.randn(6, 2 * PREFILTERS[-1]) * spread
    top_k, top_p = torch.tensor([0, 0, 0, 300, 5000, 0]), torch.tensor([0.95, 0.5, 1.0, 1.0, 0.99, 0.999])
    kept = torch.cat([warped(row[None], 1.0, int(k), float(p)) for row, k, p in zip(logits, top_k, top_p, strict=True)])
    for _ in range(5):
        drawn = sample(logits.clone(), top_k, top_p, torch.zeros(6))
        assert (kept.gather(-1, drawn.unsqueeze(-1)) > -torch.inf).all()


def test_every_row_of_a_batch_goes_by_its_own_parameters() -> None:
    logits = torch.randn(4, VOCABULARY) * 3
    before = logits.clone()
    rows = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0, top_k=1),
        SamplingParams(temperature=1.0, top_p=0.001),
        SamplingParams(temperature=1e-300),
    ]
    mark_samples(logits, [RequestSampler(params, VOCABULARY) for params in rows])
    assert logits.argmax(-1).tolist() == before.argmax(-1).tolist()
    assert torch.equal(logits[0], before[0])


def test_a_row_of_nans_changes_no_other_row() -> None:
    logits = torch.randn(3, VOCABULARY)
    logits[1] = torch.nan
    warm = RequestSampler(SamplingParams(temperature=0.8, top_k=1), VOCABULARY)
    best = logits.argmax(-1)
    mark_samples(logits, [warm, warm, RequestSampler(SamplingParams(temperature=0.0), VOCABULARY)])
    assert logits.argmax(-1)[[0, 2]].tolist() == best[[0, 2]].tolist()


def test_the_penalty_is_transformers_own_for_every_row() -> None:
    logits = torch.randn(3, VOCABULARY)
    prompts = [[5, 9, 9, 200], [1, 2, 3], [700]]
    generated = [[9, 31], [], [2, 2]]
    penalties = [1.3, 1.0, 1.1]
    expected = [
        RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + new]), row.unsqueeze(0).clone())[0]
        for penalty, prompt, new, row in zip(penalties, prompts, generated, logits, strict=True)
    ]
    samplers = [RequestSampler(SamplingParams(repetition_penalty=penalty), VOCABULARY) for penalty in penalties]
    for upto in (0, 1):  # called once per step: the second call adds only the new ids
        seen = [
            sampler.seen(prompt, new[: upto + 1] if upto == 0 else new, torch.device("cpu"))
            for sampler, prompt, new in zip(samplers, prompts, generated, strict=True)
        ]
    apply_repetition_penalty(
        logits, samplers, [None if penalty == 1.0 else ids for penalty, ids in zip(penalties, seen, strict=True)]
    )
    assert torch.allclose(logits, torch.stack(expected))


def test_the_presence_penalty_counts_each_token_of_the_answer_once_and_none_of_the_prompt() -> None:
    logits = torch.zeros(3, VOCABULARY)
    samplers = [RequestSampler(SamplingParams(presence_penalty=penalty), VOCABULARY) for penalty in (1.5, 0.0, -0.5)]
    seen = [sampler.seen([5, 6], [7, 8, 7], torch.device("cpu")) for sampler in samplers]
    apply_presence_penalty(logits, samplers, seen)
    for row, expected in zip(logits, (-1.5, 0.0, 0.5), strict=True):
        assert row[[5, 6, 7, 8, 9]].tolist() == [0.0, 0.0, expected, expected, 0.0]


def test_thoughts_are_seen_beyond_the_most_tokens_of_the_text() -> None:
    params = SamplingParams(repetition_penalty=1.2, max_tokens=2, think_tokens=6)
    sampler, answer = RequestSampler(params, 64), list[int]()
    for token in range(params.most_tokens):
        answer.append(token)
        seen = sampler.seen([40, 41], answer, torch.device("cpu"))
    assert seen.tolist() == [40, 41, *range(8)]
