"""Validates requests before they enter a batch, because one bad request could fail the whole batch.

Violations raise RequestFailed with the allowed range. Imports no torch: both processes use it.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from bot.types.errors import RequestFailed
from bot.types.messages import SamplingParams

GREEDY_BELOW = 0.01
"""Temperatures below this decode greedily: dividing by them leaves one token anyway, or overflows."""

MAX_STOPS = 16
MAX_STOP_CHARS = 100


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """Limits of the loaded model, in tokens. `cache_tokens` is None for an unbounded cache."""

    vocabulary: int
    context_window: int
    cache_tokens: int | None


def check_id(request_id: str, running: Container[str]) -> None:
    """Raise RequestFailed if a generation with this id is among the running ones."""
    if request_id in running:
        raise RequestFailed(f"A generation with the id {request_id} is running already.")


def check_params(params: SamplingParams, seeds: bool = True) -> None:
    """Raise RequestFailed unless every parameter has the right type and range.

    seeds: whether the loaded model's generator supports seeds.
    """
    _number("temperature", params.temperature, 0.0, 2.0)
    _number("top_p", params.top_p, 0.0, 1.0)
    if params.top_p == 0:
        raise RequestFailed("top_p must be greater than 0 and at most 1.")
    _number("min_p", params.min_p, 0.0, 1.0)
    _number("presence_penalty", params.presence_penalty, -2.0, 2.0)
    _number("repetition_penalty", params.repetition_penalty, 0.5, 2.0)
    _whole("top_k", params.top_k, 0, 2**31 - 1, "0 (off) or a positive whole number")
    _whole("max_tokens", params.max_tokens, 1, 2**31 - 1, "a whole number of at least 1")
    _whole("think_tokens", params.think_tokens, 0, 2**31 - 1, "a whole number, 0 or more")
    stops: tuple[object, ...] = params.stop
    if len(stops) > MAX_STOPS or not all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARS for s in stops):
        raise RequestFailed(f"stop takes at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters.")
    if params.seed is None:
        return
    if not seeds:
        raise RequestFailed("A seed needs sequential mode: answers that are generated in one batch cannot be repeated.")
    _whole("seed", params.seed, 0, 2**63 - 1, "a whole number between 0 and 2^63 - 1")


def check_prompt(ids: Sequence[int], max_tokens: int, limits: PromptLimits) -> None:
    """Raise RequestFailed unless the token ids are valid and prompt and answer fit the model."""
    if not ids:
        raise RequestFailed("The prompt is empty; say something first.")
    if min(ids) < 0 or max(ids) >= limits.vocabulary:
        raise RequestFailed(f"The prompt holds a token outside the model's vocabulary (0 to {limits.vocabulary - 1}).")
    need = len(ids) + max_tokens
    if need > limits.context_window:
        raise RequestFailed(
            f"The prompt ({len(ids)} tokens) and max_tokens ({max_tokens}) together exceed the context window of "
            f"{limits.context_window} tokens; shorten one of them."
        )
    if limits.cache_tokens is not None and need > limits.cache_tokens:
        raise RequestFailed(
            f"The prompt ({len(ids)} tokens) and max_tokens ({max_tokens}) together exceed the KV cache of "
            f"{limits.cache_tokens} tokens; shorten one of them or raise INHOUSE_KV_CACHE_MB."
        )


def _number(name: str, value: object, low: float, high: float) -> None:
    """Raise RequestFailed unless `value` is a number in range. NaN fails the comparison, so it is refused too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestFailed(f"{name} must be a number between {low:g} and {high:g}.")


def _whole(name: str, value: object, low: int, high: int, allowed: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestFailed(f"{name} must be {allowed}.")
