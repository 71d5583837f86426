"""Build the status page's data as JSON.

Sizes are in MB, durations in seconds, times in Unix seconds; unknown values are null. Contains no text of users or
models, no user names and no conversation ids.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice

import msgspec
import psutil

from bot.conversations.queue_entries import Place
from bot.models.hardware import MB, describe_hardware
from bot.types.messages import GenerationRequest
from bot.web.health import assess
from bot.web.live_state import LiveState
from bot.web.recent_errors import RecentErrors
from bot.web.sampler import KEPT, Sampler

MOST_WAITERS = 20
"""Maximum number of waiting requests that are listed individually."""

Part = dict[str, object]


class Status:
    """Reads the state of the service at each call."""

    def __init__(self, live_state: LiveState, sampler: Sampler, errors: RecentErrors, version: str) -> None:
        self._live_state, self._sampler, self._errors, self._version = live_state, sampler, errors, version
        self._process = psutil.Process()
        self.began = time.time()
        """Start of the service, Unix seconds."""

    def history(self) -> bytes:
        """The samples so far, oldest first, and the number of samples that a page keeps; JSON."""
        return msgspec.json.encode({"samples": list(self._sampler.samples), "kept": KEPT})

    def now(self) -> bytes:
        """The current state; JSON."""
        samples, places = self._sampler.samples, list(islice(self._live_state.queue_status.places(), MOST_WAITERS))
        return msgspec.json.encode(
            {
                "version": self._version,
                "began": self.began,
                "unready": self._live_state.unready(self._sampler.engine_problem),
                "stopping": self._live_state.stopping(),
                "health": assess(self._live_state, self._sampler, [place for _, place in places]),
                "sample": samples[-1] if samples else None,
                "model": self._model(),
                "loading": self._loading(),
                "memory": self._memory(),
                "queue": self._queue(places),
                "totals": self._totals(),
                "servers": self._live_state.servers,
                "platforms": list(map(self._platform, self._live_state.adapters)),
                "errors": self._errors.last(),
            }
        )

    def _model(self) -> Part | None:
        loaded = self._live_state.worker.loader.loaded
        return None if loaded is None else {**asdict(loaded), "abilities": loaded.capabilities.abilities}

    def _loading(self) -> Part | None:
        loading = self._live_state.worker.loader.loading
        if loading is None:
            return None
        taken = time.monotonic() - loading.began
        return {"model": loading.model, "again": loading.again, "taken_s": taken, **asdict(loading.progress)}

    def _memory(self) -> Part:
        hardware = self._live_state.installed_models.hardware
        stats = self._sampler.stats
        return {
            "service_mb": self._process.memory_info().rss // MB,
            "engine_mb": stats.resident_mb if stats else None,
            "ram_mb": hardware.ram_total_mb if hardware else None,
            "gpu_used_mb": stats.gpu_used_mb if stats and stats.gpu_total_mb else None,
            "gpu_mb": stats.gpu_total_mb if stats and stats.gpu_total_mb else None,
            "cache_used": stats.cache_used if stats else None,
            "hardware": describe_hardware(hardware).splitlines() if hardware else [],
        }

    def _queue(self, places: Sequence[tuple[str, Place]]) -> Part:
        queue = self._live_state.queue
        requests = {request.request_id: request for request in queue.waiting()}
        waiting = [
            {**_request(requests[request_id]), "place": place.number, "seconds": place.seconds}
            for request_id, place in places
        ]
        return {
            "running": list(map(_request, queue.running())),
            "waiting": waiting,
            "more": len(requests) - len(waiting),
            "limit": self._live_state.current.settings.queue_size,
        }

    def _totals(self) -> Part:
        totals = self._live_state.metrics.totals
        return {
            "answers": totals.answers,
            "prompt_tokens": totals.prompt_tokens,
            "generated_tokens": totals.generated_tokens,
            "cached_share": totals.cached_share if totals.prompt_tokens else None,
            "engine_restarts": self._live_state.worker.loader.losses,
            "redelivered": self._live_state.redelivered,
        }

    def _platform(self, name: str) -> Part:
        live_state = self._live_state
        errors = live_state.metrics.totals.platform_errors
        return {
            "name": name,
            "connected": live_state.connected(name),
            "elsewhere": live_state.elsewhere(name),
            "refusal": live_state.refusals.get(name, ""),
            "sessions": live_state.backfill.sessions.get(name, 0),
            "read_back": live_state.backfill.read[name],
            "errors": sum(count for (platform, _), count in errors.items() if platform == name),
            "rate_limited": live_state.adapters[name].rate_limited,
        }


def _request(request: GenerationRequest) -> Part:
    asked = max(0.0, time.time() - request.accepted_at)
    return {"platform": request.key.platform, "model": request.model, "asked_s": asked, "attempt": request.attempts + 1}
