"""Collect the gauges and counters of /metrics from the live service at scrape time.

All names begin with `inhouse_`. A metric that does not apply, such as GPU memory without a GPU, has its description but
no sample. The histograms are in `bot.observability.metrics`.
"""

from collections.abc import Iterable, Iterator

import psutil
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bot.models.hardware import MB
from bot.web.live_state import LiveState
from bot.web.sampler import Sampler

Values = Iterable[tuple[tuple[str, ...], float]]
"""Pairs of label values and sample value."""


class LiveCollector(Collector):
    """Reads the metrics of `LiveState` and the sampler at each scrape."""

    def __init__(self, live_state: LiveState, sampler: Sampler, version: str) -> None:
        self._live_state, self._sampler, self._version = live_state, sampler, version
        self._process = psutil.Process()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering this collector does not call `collect` before the service runs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families with their current values."""
        yield from self._service()
        yield from self._queue()
        yield from self._answers()
        yield from self._model()
        yield from self._memory()
        yield from self._platforms()
        yield from self._servers()

    def _service(self) -> Iterator[Metric]:
        unready = self._live_state.unready(self._sampler.engine_problem)
        yield _gauge("ready", "1 if questions can be answered, else 0", float(not unready))
        yield _gauges("info", "1, with the version", ["version"], [((self._version,), 1)])

    def _queue(self) -> Iterator[Metric]:
        queue = self._live_state.queue
        yield _gauge("queue_waiting", "Requests that wait", len(queue.waiting()))
        yield _gauge("queue_running", "Requests whose answers are being written", len(queue.running()))
        yield _gauge("queue_limit", "Requests that may wait", self._live_state.current.settings.queue_size)
        yield _gauge("hosts", "Hosts that are alive", self._live_state.hosts())
        yield _gauge("slots", "Answers that all hosts write at once", self._live_state.slots())

    def _answers(self) -> Iterator[Metric]:
        totals = self._live_state.metrics.totals
        ends = (((str(reason),), count) for reason, count in totals.answers.items())
        yield _counters("answers", "Answers that ended, by finish reason", ["reason"], ends)
        yield _counter("prompt_tokens", "Tokens in: read by the model", totals.prompt_tokens)
        yield _counter("cached_tokens", "Tokens in that came from the prefix cache", totals.cached_tokens)
        yield _counter("generated_tokens", "Tokens out: written by the model", totals.generated_tokens)
        yield _gauge(
            "cached_share", "The share of tokens in that came from the prefix cache, 0 to 1", totals.cached_share
        )
        stats = self._sampler.stats
        rate = stats.tokens_per_s if stats else 0.0
        yield _gauge("tokens_per_second", "Tokens out a second, over the last ten seconds", rate)
        yield _counter("redeliveries_dropped", "Duplicate events that were dropped", self._live_state.redelivered)

    def _model(self) -> Iterator[Metric]:
        worker, totals = self._live_state.worker, self._live_state.metrics.totals
        loads = (((model, "loaded" if well else "failed"), count) for (model, well), count in totals.loads.items())
        yield _counters("model_loads", "Loads of a model, by outcome", ["model", "outcome"], loads)
        now = [((worker.loader.loaded.name, worker.loader.loaded.device), 1)] if worker.loader.loaded else []
        yield _gauges("model_loaded", "1 for the model that is loaded", ["model", "device"], now)
        yield _counter("engine_restarts", "How often the engine's process ended and was replaced", worker.loader.losses)

    def _memory(self) -> Iterator[Metric]:
        stats = self._sampler.stats
        resident = [(("service",), self._process.memory_info().rss)]
        if stats:
            resident.append((("engine",), stats.resident_mb * MB))
        yield _gauges("memory_bytes", "Resident memory of our processes", ["process"], resident)
        limit = stats.memory_limit_mb * MB if stats and stats.memory_limit_mb else None
        yield _gauge("engine_memory_limit_bytes", "Above it, an idle engine is restarted", limit)
        has_gpu = stats is not None and stats.gpu_total_mb > 0
        used, there = (stats.gpu_used_mb * MB, stats.gpu_total_mb * MB) if stats and has_gpu else (None, None)
        yield _gauge("gpu_memory_used_bytes", "GPU memory in use, by all processes", used)
        yield _gauge("gpu_memory_bytes", "Total GPU memory", there)
        cache = stats.cache_used if stats else None
        yield _gauge("kv_cache_used_share", "The share of the KV cache that is in use, 0 to 1", cache)

    def _servers(self) -> Iterator[Metric]:
        servers, label = self._live_state.servers, ["server"]
        up = (((server.name,), not server.problem) for server in servers)
        yield _gauges("server_up", "1 if the model's server can be used, else 0", label, up)
        running = (((server.name,), server.running) for server in servers)
        yield _gauges("server_running", "Answers that the model's server is writing for this service", label, running)
        requests = (((server.name,), server.requests) for server in servers)
        yield _counters("server_requests", "Requests that were sent to the model's server", label, requests)
        failures = (((server.name,), server.failures) for server in servers)
        yield _counters("server_failures", "Requests under which the model's server failed", label, failures)

    def _platforms(self) -> Iterator[Metric]:
        live_state, label = self._live_state, ["platform"]
        names = list(live_state.adapters)
        errors = live_state.metrics.totals.platform_errors.items()
        yield _counters("platform_errors", "Calls to a platform that failed, by kind", ["platform", "kind"], errors)
        totals = live_state.metrics.totals
        retries = (((name,), totals.delivery_retries[name]) for name in names)
        yield _counters("delivery_retries", "Failed attempts to show an answer, which are repeated", label, retries)
        dropped = (((name,), totals.answers_dropped[name]) for name in names)
        yield _counters("answers_dropped", "Answers that could not be shown", label, dropped)
        limited = (((name,), live_state.adapters[name].rate_limited) for name in names)
        yield _counters("platform_rate_limited", "Responses 429 of a platform", label, limited)
        connected = (((name,), live_state.connected(name)) for name in names)
        yield _gauges("platform_connected", "1 if there is a session, else 0", label, connected)
        sessions = (((name,), live_state.backfill.sessions.get(name, 0)) for name in names)
        yield _counters("catchups", "Sessions; each one starts a backfill", label, sessions)
        read = (((name,), live_state.backfill.read[name]) for name in names)
        yield _counters("caught_up_messages", "Backfilled messages", label, read)


def _gauge(name: str, what: str, value: float | None) -> Metric:
    return _gauges(name, what, [], [] if value is None else [((), value)])


def _counter(name: str, what: str, value: float) -> Metric:
    return _counters(name, what, [], [((), value)])


def _gauges(name: str, what: str, labels: list[str], values: Values) -> Metric:
    family = GaugeMetricFamily(f"inhouse_{name}", what, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _counters(name: str, what: str, labels: list[str], values: Values) -> Metric:
    family = CounterMetricFamily(f"inhouse_{name}", what, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family
