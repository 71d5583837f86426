"""Samples the next tokens of a step on a GPU and waits for it once, when it copies all tokens back.

The sampling parameters of each request and the ids that it has seen stay on the GPU, in the request's place. Tokens are
those of bot.engine.batching.sampling: greedy rows take the highest logit, sampled rows draw among the highest ones
(PREFILTER). A row in which these may not contain all kept tokens is drawn again from all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bot.engine.batching.sampling import PREFILTERS, RequestSampler, above, noisy_argmax, sample, top_candidates

PREFILTER = PREFILTERS[0]


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row of logits: its request's place, the ids of prompt and answer, and the draft tokens that follow these."""

    place: int
    ids: Sequence[int]
    draft: Sequence[int] = ()


class DeviceSampler:
    """Samplers of `places` requests."""

    def __init__(self, places: int, vocabulary: int, device: torch.device) -> None:
        self.free = list(range(places))
        """Places without a request."""
        self._device = device
        self._samplers: dict[int, RequestSampler] = {}
        self._noted: dict[int, int] = {}  # how many of each request's ids are marked
        # The ids seen in prompt and answer, and those of the answer alone.
        self._seen = torch.zeros((places, vocabulary), dtype=torch.bool, device=device)
        self._said = torch.zeros_like(self._seen)
        # Temperature, top-p, min-p, repetition penalty and presence penalty of each place; and its top-k.
        self._values = torch.zeros((5, places), device=device)
        self._top_k = torch.zeros(places, dtype=torch.int64, device=device)

    def begin(self, sampler: RequestSampler, prompt: Sequence[int]) -> int:
        """Return the place of a new request."""
        place = self.free.pop()
        self._samplers[place], self._noted[place] = sampler, len(prompt)
        parameters = sampler.temperature, sampler.top_p, sampler.min_p, sampler.penalty, sampler.presence
        self._values[:, place].copy_(self._moved(torch.tensor(parameters)))
        self._top_k[place].fill_(sampler.top_k)
        if sampler.penalised:
            self._seen[place].zero_()
            self._said[place].zero_()
            self._seen[place].index_fill_(0, self._moved(torch.tensor(list(prompt))), True)
        return place

    def end(self, place: int) -> None:
        """Free a request's place."""
        del self._samplers[place], self._noted[place]
        self.free.append(place)

    def sample(self, logits: Tensor, rows: Sequence[SampledRow]) -> list[int]:
        """Return the next token of each row of logits, float32 [rows, vocabulary], and change the logits."""
        samplers = [self._samplers[row.place] for row in rows]
        marks = [
            (row.place, token) for row, sampler in zip(rows, samplers, strict=True) for token in self._new(row, sampler)
        ]
        drafts = [
            (number, token) for number, row in enumerate(rows) if samplers[number].penalised for token in row.draft
        ]
        lists = [
            [row.place for row in rows],
            *map(list, zip(*marks, strict=True)),
            *map(list, zip(*drafts, strict=True)),
        ]
        moved = iter(self._moved(torch.tensor([each for some in lists for each in some])).split(list(map(len, lists))))
        places = next(moved)
        if marks:
            index = next(moved), next(moved)
            for seen in (self._seen, self._said):
                seen.index_put_(index, torch.ones((), dtype=torch.bool, device=self._device))
        draft = (next(moved), next(moved)) if drafts else None
        values = self._values[:, places].unsqueeze(-1)
        self._penalise(logits, samplers, places, draft, values)
        tokens, complete = logits.argmax(-1), torch.ones_like(places, dtype=torch.bool)
        if any(sampler.temperature for sampler in samplers):
            drawn, complete = self._draw(logits, samplers, self._top_k[places], values)
            warm = values[0, :, 0] > 0
            tokens, complete = torch.where(warm, drawn, tokens), complete | ~warm
        chosen: list[list[int]] = torch.stack([tokens, complete.long()]).tolist()  # waits for the GPU
        return self._completed(chosen[0], chosen[1], logits, samplers)

    def _new(self, row: SampledRow, sampler: RequestSampler) -> Sequence[int]:
        """Return the ids of the answer that are not marked yet; the first row of a request has them."""
        known, self._noted[row.place] = self._noted[row.place], len(row.ids)
        return row.ids[known:] if sampler.penalised else ()

    def _penalise(
        self,
        logits: Tensor,
        samplers: Sequence[RequestSampler],
        places: Tensor,
        draft: tuple[Tensor, Tensor] | None,
        values: Tensor,
    ) -> None:
        """Apply the repetition and the presence penalty in place."""
        yes = torch.ones((), dtype=torch.bool, device=self._device)
        if any(sampler.penalty != 1.0 for sampler in samplers):
            seen = self._seen[places]
            if draft is not None:
                seen.index_put_(draft, yes)
            logits.copy_(torch.where(seen, torch.where(logits < 0, logits * values[3], logits / values[3]), logits))
        if any(sampler.presence for sampler in samplers):
            said = self._said[places]
            if draft is not None:
                said.index_put_(draft, yes)
            logits.sub_(said * values[4])

    def _draw(
        self, logits: Tensor, samplers: Sequence[RequestSampler], top_k: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a token for each row, and whether its kept tokens were certainly all among the highest logits."""
        warm = logits / values[0].clamp_min(1e-6)
        top_p, least = values[1, :, 0], warm.amax(-1, keepdim=True) + values[2].log()
        kept, ids, complete = top_candidates(warm, top_k, top_p, min(PREFILTER, warm.size(-1)))
        drawn = ids.gather(-1, noisy_argmax(above(kept, least))).squeeze(-1)
        if any(_free(sampler) for sampler in samplers):
            free = (top_k == 0) & (top_p >= 1.0)
            drawn = torch.where(free, noisy_argmax(above(warm, least)).squeeze(-1), drawn)
            complete = complete | free
        return drawn, complete

    def _completed(
        self, tokens: list[int], complete: Sequence[int], logits: Tensor, samplers: Sequence[RequestSampler]
    ) -> list[int]:
        """Return the tokens, with those of incomplete rows drawn from the whole vocabulary."""
        rows = [row for row, whole in enumerate(complete) if not whole]
        if rows:
            again = [samplers[row] for row in rows]
            temperature = torch.tensor([[sampler.temperature] for sampler in again], device=self._device)
            cut = (
                torch.tensor([sampler.top_k for sampler in again], device=self._device),
                torch.tensor([sampler.top_p for sampler in again], device=self._device),
                torch.tensor([sampler.min_p for sampler in again], device=self._device),
            )
            for row, token in zip(rows, sample(logits[rows] / temperature, *cut).tolist(), strict=True):
                tokens[row] = token
        return tokens

    def _moved(self, values: Tensor) -> Tensor:
        """Copy values to the device without waiting for it."""
        if self._device.type == "cpu":
            return values
        return values.pin_memory().to(self._device, non_blocking=True)


def _free(sampler: RequestSampler) -> bool:
    """Whether it draws from the whole vocabulary."""
    return sampler.temperature > 0 and sampler.top_k == 0 and sampler.top_p >= 1.0
