"""Samples the next token of every request in a batch in one pass, each with its own parameters.

Changes the logits of one step in place, float32 [rows, vocabulary], so that each row's argmax is its token. Greedy rows
keep their logits (the first index wins ties, as in generate()); in a sampled row the token's logit becomes +inf.
Sampling adds Gumbel noise to the kept logits and takes the maximum, which draws from exactly their softmax. A row with
NaN yields an arbitrary token for itself only; nothing raises.

The kept tokens are those of transformers' own warpers (temperature, then top-k, then top-p, then min-p). They are
searched among the highest logits (PREFILTERS) where these provably contain them all, else among all.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.requests import FutureRequestState

from bot.engine.client.request_validation import GREEDY_BELOW
from bot.types.messages import SamplingParams

PREFILTERS = (256, 4096)
"""Numbers of highest logits that are tried. At high temperatures rows spread over thousands of tokens; sorting a whole
vocabulary takes five times as long.
"""

History = tuple[Sequence[int], Sequence[int]]
"""The ids of a prompt, and those of its answer so far."""


class RequestSampler:
    """Sampling parameters of one request, and the ids seen so far if its penalties need them."""

    def __init__(self, params: SamplingParams, vocabulary: int) -> None:
        self.temperature = 0.0 if params.temperature < GREEDY_BELOW else params.temperature
        self.top_k = params.top_k if params.top_k < vocabulary else 0
        self.top_p = params.top_p
        self.min_p = params.min_p
        self.penalty, self.presence = params.repetition_penalty, params.presence_penalty
        self._room = params.most_tokens
        self._seen: Tensor | None = None
        self._first = 0  # number of distinct ids in the prompt
        self._generated = 0

    def seen(self, prompt: Sequence[int], generated: Sequence[int], device: torch.device) -> Tensor:
        """Return the ids of prompt and answer so far, int64 [n], possibly repeated. Each call copies only new ids."""
        if self._seen is None:
            first = torch.tensor(sorted(set(prompt)), dtype=torch.int64)
            self._first = len(first)
            self._seen = torch.cat([first, torch.zeros(self._room + 1, dtype=torch.int64)]).to(device)
        for place in range(self._generated, len(generated)):
            self._seen[self._first + place] = generated[place]
        self._generated = len(generated)
        return self._seen[: self._first + self._generated]

    @property
    def penalised(self) -> bool:
        """Whether a penalty applies, so that the ids seen so far are needed."""
        return self.penalty != 1.0 or self.presence != 0.0

    def generated(self, seen: Tensor) -> Tensor:
        """The ids of the answer among those that `seen` returned."""
        return seen[self._first :]

    def truncate(self, generated: int) -> None:
        """Keep only the first `generated` ids of the answer; drops rejected draft tokens."""
        self._generated = min(self._generated, generated)


class SamplingProcessor(ContinuousBatchingLogitsProcessor):
    """The only logits processor of our GPU batches; a request passes its RequestSampler as the keyword `sampler`."""

    supported_kwargs: dict[str, type] = {"sampler": RequestSampler}  # noqa: RUF012  (declared so by the base class)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, stepped: Callable[[], None]) -> None:
        """stepped: called at the end of every step's forward pass, on the batch's thread."""
        self._stepped = stepped
        self._requests: list[FutureRequestState] = []

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Zero the argument tensor, which carries no arguments of ours."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        """Remember the requests of the next call's rows; valid because the batch runs one step at a time."""
        self._requests = requests_with_new_token
        return torch.zeros(0, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Return the logits with every row's token picked. Rows beyond the requests' are padding."""
        states = [request.state for request in self._requests]
        samplers: list[RequestSampler] = [state.logit_processor_kwargs["sampler"] for state in states]
        mark_next_tokens(scores, samplers, [(state.initial_tokens, state.generated_tokens) for state in states])
        if scores.is_cuda:
            torch.cuda.current_stream(scores.device).synchronize()  # the measured step time must include the GPU's work
        self._stepped()
        return scores


def sample_tokens(logits: Tensor, samplers: Sequence[RequestSampler], histories: Sequence[History]) -> list[int]:
    """Return the next token of every row of `logits` [rows, vocabulary], and change the logits."""
    mark_next_tokens(logits, samplers, histories)
    tokens: list[int] = logits.argmax(-1).tolist()
    return tokens


def mark_next_tokens(logits: Tensor, samplers: Sequence[RequestSampler], histories: Sequence[History]) -> None:
    """Change the logits in place so that each row's argmax is its next token."""
    seen = [
        sampler.seen(*history, logits.device) if sampler.penalised else None
        for sampler, history in zip(samplers, histories, strict=True)
    ]
    apply_repetition_penalty(logits, samplers, seen)
    apply_presence_penalty(logits, samplers, seen)
    mark_samples(logits, samplers)


def apply_repetition_penalty(scores: Tensor, samplers: Sequence[RequestSampler], seen: Sequence[Tensor | None]) -> None:
    """Apply each row's repetition penalty in place: divides seen tokens' positive logits, multiplies negative ones."""
    rows = [(row, ids) for row, ids in enumerate(seen) if ids is not None and samplers[row].penalty != 1.0]
    if not rows:
        return
    width = scores.size(-1)
    flat = scores.view(-1)
    index = torch.cat([ids + row * width for row, ids in rows])
    penalty = torch.cat([scores.new_full((len(ids),), samplers[row].penalty) for row, ids in rows])
    old = flat[index]
    flat[index] = torch.where(old < 0, old * penalty, old / penalty)


def apply_presence_penalty(scores: Tensor, samplers: Sequence[RequestSampler], seen: Sequence[Tensor | None]) -> None:
    """Subtract each row's presence penalty in place from the logits of tokens that its answer already has."""
    for row, (sampler, ids) in enumerate(zip(samplers, seen, strict=True)):
        if ids is not None and sampler.presence:
            said = sampler.generated(ids)
            scores[row, said] = scores[row, said] - sampler.presence  # a repeated id gets the same value each time


def mark_samples(scores: Tensor, samplers: Sequence[RequestSampler]) -> None:
    """Sample a token for every row with a temperature, and set its logit to +inf in place."""
    warm = [row for row, sampler in enumerate(samplers) if sampler.temperature > 0]
    if not warm:
        return
    device = scores.device
    rows = torch.tensor(warm, device=device)
    temperature = torch.tensor([samplers[row].temperature for row in warm], device=device)
    top_k = torch.tensor([samplers[row].top_k for row in warm], device=device)
    top_p = torch.tensor([samplers[row].top_p for row in warm], device=device)
    min_p = torch.tensor([samplers[row].min_p for row in warm], device=device)
    logits = scores[rows] / temperature.unsqueeze(-1)
    scores[rows, sample(logits, top_k, top_p, min_p)] = torch.inf


def sample(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Sample one token per row: ids, int64 [rows], of logits [rows, vocabulary] already divided by temperature."""
    least = (logits.amax(-1) + min_p.log()).unsqueeze(-1)  # -inf where min_p is 0
    drawn = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    free = (top_k == 0) & (top_p >= 1.0)
    if bool(free.any()):
        drawn[free] = noisy_argmax(above(logits[free], least[free])).squeeze(-1)
    rest = (~free).nonzero().squeeze(-1)
    vocabulary = logits.size(-1)
    for width in (*(width for width in PREFILTERS if width < vocabulary), vocabulary):
        if not len(rest):
            break
        kept, ids, complete = top_candidates(logits[rest], top_k[rest], top_p[rest], width)
        drawn[rest] = ids.gather(-1, noisy_argmax(above(kept, least[rest]))).squeeze(-1)
        rest = rest[~complete]
    return drawn


def top_candidates(logits: Tensor, top_k: Tensor, top_p: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `width` highest logits of each row, with -inf for those cut by top-k and top-p, and their ids.

    The third result is a bool per row: whether no token outside the `width` would have been kept (then the row is
    exact).
    """
    rows, vocabulary = logits.shape
    everything = torch.ones(rows, dtype=torch.bool, device=logits.device)
    values, ids = logits.sort(-1, descending=True) if width == vocabulary else logits.topk(width)
    has_k = top_k > 0
    place = (top_k.clamp(1, width) - 1).unsqueeze(-1)
    least = values.gather(-1, place).masked_fill(~has_k.unsqueeze(-1), -torch.inf)
    by_k = values.masked_fill(values < least, -torch.inf)
    # Ties at the cut-off are all kept, so the cut-off must lie inside the width.
    k_inside = everything if width == vocabulary else has_k & (top_k < width) & (values[:, -1:] < least).squeeze(-1)
    total = torch.where(k_inside, by_k.logsumexp(-1), logits.logsumexp(-1)).unsqueeze(-1)
    chance = (by_k - total).exp()
    before = chance.cumsum(-1) - chance
    kept = by_k.masked_fill((before >= top_p.unsqueeze(-1)) & (top_p < 1.0).unsqueeze(-1), -torch.inf)
    kept[:, 0] = values[:, 0]
    # Without top-k, a row is exact if the probabilities inside the width already reach top-p.
    p_inside = ~has_k & (top_p < 1.0) & (chance.sum(-1) >= top_p)
    return kept, ids, everything if width == vocabulary else k_inside | p_inside


def above(logits: Tensor, least: Tensor) -> Tensor:
    """The logits, with -inf for those below `least` [rows, 1]."""
    return logits.masked_fill(logits < least, -torch.inf)


def noisy_argmax(logits: Tensor) -> Tensor:
    """Sample from each row's softmax, int64 [rows, 1], with the Gumbel-max trick."""
    noise = torch.empty_like(logits).exponential_().log_()
    return (logits - noise).argmax(-1, keepdim=True)
