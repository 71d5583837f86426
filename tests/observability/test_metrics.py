"""Tests the counters, and that failures of an adapter are counted."""

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from adapters.slack.adapter import SlackAdapter
from bot.observability.metrics import KEPT, Metrics
from bot.platforms.adapter import Adapter
from bot.platforms.instrumented_adapter import InstrumentedAdapter
from bot.types.errors import FatalAdapterError, Gone, NotSent, OutcomeUnknown, Rejected, RetryLater
from bot.types.messages import ConversationKey, FinishReason, GenerationRequest, Person, Reply, SamplingParams, Usage
from tests.support.builders.slack_adapter import reply_to, run_slack_adapter, settings_of
from tests.support.builders.web_service import open_page
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_platform import Fault, ScriptedPlatform

KEY = ConversationKey("scripted", "team", "general")
ANA = Person("1", "Ana")
REPLY = Reply("r1", "q1", KEY, 0, "m1", ANA, "hello")


def asked(at: float, attempts: int = 0) -> GenerationRequest:
    return GenerationRequest("q1", KEY, "m1", ANA, "small", SamplingParams(), attempts, at, 600)


def value(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(name)
    assert found is not None, name
    return found


def test_waiting_and_first_words_are_measured_from_the_question_on() -> None:
    metrics = Metrics(clock=lambda: 7.0, now=lambda: 1003.5)
    metrics.started(asked(1001.0))
    metrics.first_words(asked(1000.0))
    assert value(metrics, "inhouse_waiting_seconds_sum") == 2.5
    assert value(metrics, "inhouse_first_token_seconds_sum") == 3.5
    assert [(delay.at, delay.seconds) for delay in metrics.delays] == [(7.0, 3.5)]


def test_a_second_attempt_did_not_wait_and_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    metrics = Metrics(now=lambda: 1000.0)
    metrics.started(asked(900.0, attempts=1))
    assert value(metrics, "inhouse_waiting_seconds_count") == 0
    metrics.started(asked(4600.0))
    assert value(metrics, "inhouse_waiting_seconds_sum") == 0


def test_only_the_last_delays_are_kept() -> None:
    metrics = Metrics()
    for _ in range(KEPT + 5):
        metrics.first_words(asked(0.0))
    assert len(metrics.delays) == KEPT


def test_tokens_and_ends_add_up() -> None:
    metrics = Metrics()
    assert metrics.totals.cached_share == 0
    metrics.ended(FinishReason.STOP, Usage(100, 80, 20, 0, 0, 0, 2048, 0))
    metrics.ended(FinishReason.ABORT, Usage(100, 10, 5, 0, 0, 0, 2048, 0))
    metrics.ended(FinishReason.ERROR)
    totals = metrics.totals
    assert (totals.prompt_tokens, totals.cached_tokens, totals.generated_tokens) == (200, 90, 25)
    assert totals.cached_share == 0.45
    assert totals.answers == {FinishReason.STOP: 1, FinishReason.ABORT: 1, FinishReason.ERROR: 1}


def test_two_services_in_one_process_do_not_share_counts() -> None:
    one, other = Metrics(), Metrics()
    one.loop_was_late(0.2)
    assert value(one, "inhouse_event_loop_lag_seconds_count") == 1
    assert value(other, "inhouse_event_loop_lag_seconds_count") == 0
    assert b"inhouse_waiting_seconds_bucket" in generate_latest(one.registry)


class Failing:
    """An adapter whose calls all fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def post(self, reply: Reply) -> str:
        """Always raises."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RetryLater(1.0), "retry_later"),
        (Gone("gone"), "gone"),
        (Rejected("no"), "rejected"),
        (OutcomeUnknown("?"), "outcome_unknown"),
        (FatalAdapterError("no token"), "fatal"),
        (TimeoutError(), "timeout"),
        (ZeroDivisionError(), "other"),
    ],
)
async def test_every_kind_of_failure_is_counted_and_passed_on(
    error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter: Adapter = ScriptedAdapter(0)
    monkeypatch.setattr(adapter, "post", Failing(error).post)
    metrics = Metrics()
    with pytest.raises(type(error)) as caught:
        await InstrumentedAdapter(adapter, metrics).post(REPLY)
    assert caught.value is error
    assert metrics.totals.platform_errors == {("scripted", kind): 1}


async def test_calls_that_an_adapter_holds_back_itself_are_no_failures_of_the_platform() -> None:
    async with run_slack_adapter() as setup:
        metrics = Metrics()
        question = await setup.ana.says(setup.general, "count", mention=True)
        reply, adapter = reply_to(question, "One "), InstrumentedAdapter(setup.adapter, metrics)
        with pytest.raises(NotSent):
            await adapter.post(replace(reply, committed="", tail="h"))  # a stream cannot begin without words
        with pytest.raises(NotSent):
            await InstrumentedAdapter(SlackAdapter(settings_of(setup.server)), metrics).post(reply)  # not connected
        reply = replace(reply, platform_id=await adapter.post(reply))
        assert metrics.totals.platform_errors == {}
        setup.server.faults.refuse("chat.update", "ratelimited")
        with pytest.raises(RetryLater):
            await adapter.update(replace(reply, committed="One two three.", final=True))
        assert metrics.totals.platform_errors == {("slack", "retry_later"): 1}


async def test_what_goes_well_is_as_without_a_watch(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform, open_page(tmp_path, platform=platform) as (setup, site):
        platform.fails("post", Fault.RETRY)
        assert (await setup.team.asks("ana", "hello")).text == "You said: hello"
        assert await site.metric('inhouse_platform_errors_total{kind="retry_later",platform="scripted"}') == 1


async def test_an_adapter_that_cannot_tell_says_nothing_of_its_connection() -> None:
    watched = InstrumentedAdapter(ScriptedAdapter(0), Metrics())
    assert watched.connected is None
    assert watched.rate_limited == 0
