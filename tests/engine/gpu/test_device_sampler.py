"""Tests that sampling on the device picks what sampling on the CPU picks, and waits for the device once."""

from dataclasses import replace

import pytest
import torch

from bot.engine.batching.sampling import RequestSampler, sample_tokens
from bot.engine.gpu.device_sampler import DeviceSampler, SampledRow
from bot.types.messages import SamplingParams
from tests.support.builders.step_recorder import WAITS, Recording

VOCABULARY = 1000
CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)
PENALISED = (
    GREEDY,
    replace(GREEDY, repetition_penalty=1.3),
    replace(GREEDY, presence_penalty=2.0),
    replace(GREEDY, repetition_penalty=1.2, presence_penalty=0.5),
)


def test_penalties_are_those_of_the_cpu_through_an_answer_with_draft_tokens() -> None:
    chance = torch.Generator().manual_seed(1)
    samplers = [RequestSampler(params, VOCABULARY) for params in PENALISED]
    ours = [RequestSampler(params, VOCABULARY) for params in PENALISED]
    device, prompt = DeviceSampler(8, VOCABULARY, CPU), list(range(0, 1000, 7))
    places = [device.begin(sampler, prompt) for sampler in ours]
    answers: list[list[int]] = [[] for _ in samplers]
    for step in range(12):
        drafts = [[(31 * step + number) % VOCABULARY, 77][: step % 3] for number in range(len(samplers))]
        rows, histories, their = list[SampledRow](), list[tuple[list[int], list[int]]](), list[RequestSampler]()
        for number, draft in enumerate(drafts):
            for right in range(len(draft) + 1):
                rows.append(SampledRow(places[number], prompt + answers[number], draft[:right]))
                histories.append((prompt, answers[number] + draft[:right]))
                their.append(samplers[number])
        logits = torch.randn((len(rows), VOCABULARY), generator=chance) * 3
        found = device.sample(logits.clone(), rows)
        assert found == sample_tokens(logits.clone(), their, histories)
        for number, answer in enumerate(answers):
            first = next(place for place, row in enumerate(rows) if row.place == places[number])
            answer.append(found[first])
            samplers[number].truncate(len(answer) - 1)


def test_a_place_that_is_used_again_has_seen_nothing() -> None:
    device = DeviceSampler(1, VOCABULARY, CPU)
    sampler = RequestSampler(PENALISED[1], VOCABULARY)
    device.end(device.begin(sampler, range(500)))
    logits = torch.zeros((1, VOCABULARY))
    logits[0, 3], logits[0, 700] = 2.0, 1.9
    assert device.sample(logits, [SampledRow(device.begin(sampler, [700]), [700])]) == [3]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.8, top_p=0.9, repetition_penalty=1.0),
        SamplingParams(temperature=1.0, top_p=1.0, top_k=5, repetition_penalty=1.0),
        SamplingParams(temperature=1.2, top_p=1.0, repetition_penalty=1.0),
        SamplingParams(temperature=1.0, top_p=1.0, min_p=0.3, repetition_penalty=1.0),
        SamplingParams(temperature=40.0, top_p=0.99, repetition_penalty=1.0),
    ],
    ids=["top_p", "top_k", "free", "min_p", "hot"],
)
def test_draws_have_the_chances_of_draws_on_the_cpu(params: SamplingParams) -> None:
    """The hot one keeps more tokens than are looked at first."""
    logits = torch.randn((1, VOCABULARY), generator=torch.Generator().manual_seed(2)) * 4
    device, count = DeviceSampler(2, VOCABULARY, CPU), 4000
    place = device.begin(RequestSampler(params, VOCABULARY), [1])
    other = device.begin(RequestSampler(GREEDY, VOCABULARY), [1])
    rows = [SampledRow(place, [1])] * count + [SampledRow(other, [1])]
    drawn = device.sample(logits.expand(count + 1, -1).clone(), rows)
    assert drawn.pop() == int(logits.argmax())
    theirs = sample_tokens(
        logits.expand(count, -1).clone(), [RequestSampler(params, VOCABULARY)] * count, [([1], [])] * count
    )
    top = torch.topk(logits[0], 20).indices.tolist()
    for token in top:
        assert abs(drawn.count(token) - theirs.count(token)) < 6 * (max(theirs.count(token), 9) ** 0.5) * 1.5
    few = params.top_k or (30 if params.min_p else VOCABULARY)
    assert len(set(drawn)) <= few


def test_numbers_that_are_none_end_nothing() -> None:
    device = DeviceSampler(2, VOCABULARY, CPU)
    places = [device.begin(RequestSampler(SamplingParams(), VOCABULARY), [1]) for _ in range(2)]
    logits = torch.full((2, VOCABULARY), torch.nan)
    logits[1] = torch.arange(VOCABULARY) * 1.0
    tokens = device.sample(logits, [SampledRow(place, [1]) for place in places])
    assert 0 <= tokens[0] < VOCABULARY
    assert tokens[1] > VOCABULARY - 20


def test_nothing_waits_for_the_device_before_the_tokens_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of Python are copied from pinned memory, which does not wait."""
    monkeypatch.setattr("tests.support.builders.step_recorder.WAITS", WAITS - {"aten::lift_fresh"})
    device = DeviceSampler(8, VOCABULARY, CPU)
    kinds = (*PENALISED, SamplingParams(), SamplingParams(top_k=4), SamplingParams(temperature=1.0, top_p=1.0))
    with Recording():
        places = [device.begin(RequestSampler(params, VOCABULARY), [5, 6]) for params in kinds]
        rows = [SampledRow(place, [5, 6, 7], [8, 9]) for place in places]
        tokens = device.sample(torch.randn((len(rows), VOCABULARY)) * 9, rows)
    assert len(tokens) == len(rows)
