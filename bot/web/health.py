"""Judge how well a ready service works, for the status page: ready, slow or degraded, with the reasons."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from bot.conversations.queue_entries import Place
from bot.generation.user_messages import about, counted
from bot.web.live_state import LiveState
from bot.web.sampler import Sampler

SLOW_S = 60.0
"""Wait for the first words of an answer that counts as slow, seconds."""
LAG_S = 1.0
"""Lag of the event loop that counts as slow, seconds."""
WINDOW_S = 60.0
MOST_REFUSED = 4
"""Calls that a platform may refuse within WINDOW_S before the service counts as degraded."""
RESTARTS_S = 600.0
MOST_RESTARTS = 1
"""Restarts of the engine within RESTARTS_S before the service counts as degraded."""


@dataclass(frozen=True, slots=True)
class Health:
    """state: 'ready', 'slow' or 'degraded'. reasons: phrases without a full stop; empty if ready."""

    state: str
    reasons: Sequence[str]


def assess(live_state: LiveState, sampler: Sampler, places: Sequence[Place]) -> Health:
    """Judge the service. places: those of the first waiting requests."""
    degraded = [*_engine(live_state, sampler), *_platforms(live_state, sampler)]
    slow = list(_waits(live_state, sampler, places))
    state = "degraded" if degraded else "slow" if slow else "ready"
    return Health(state, [*degraded, *slow])


def _engine(live_state: LiveState, sampler: Sampler) -> Iterator[str]:
    queue, worker = live_state.queue, live_state.worker
    if (restarts := sampler.restarts_within(RESTARTS_S)) > MOST_RESTARTS:
        yield f"the engine restarted {restarts} times in ten minutes"
    retried = sum(request.attempts > 0 for request in (*queue.running(), *queue.waiting()))
    if retried:
        alone = ", one at a time to find the one that ends the engine" if worker.slots < worker.loader.slots else ""
        yield f"{counted(retried, 'question')} tried again after a failure{alone}"


def _platforms(live_state: LiveState, sampler: Sampler) -> Iterator[str]:
    for name in live_state.adapters:
        refused = sampler.refused_within(name, WINDOW_S)
        if name in live_state.refusals:
            yield f"{name} is stopped"
        elif not live_state.connected(name) and not live_state.elsewhere(name):
            yield f"{name} is not connected"
        elif refused > MOST_REFUSED:
            yield f"{name} refused {refused} calls in the last minute"


def _waits(live_state: LiveState, sampler: Sampler, places: Sequence[Place]) -> Iterator[str]:
    waiting = live_state.queue.waiting()
    waited = max((time.time() - request.accepted_at for request in waiting), default=0.0)
    # the estimate of the last place, computed from that of the last one that is given
    expected = (places[-1].seconds or 0.0) / places[-1].number * len(waiting) if places else 0.0
    delays = [sample.first_words_s for sample in sampler.samples if sample.first_words_s is not None]
    if waited > SLOW_S:
        yield f"a question has waited {about(waited)}"
    if expected > SLOW_S:
        yield f"the last one in the queue waits {about(expected)} more"
    if not waiting and delays and median(delays) > SLOW_S:
        yield f"answers begin after {about(median(delays))}"
    if sampler.samples and sampler.samples[-1].lag_s > LAG_S:
        yield f"the event loop lags {about(sampler.samples[-1].lag_s)}"
