"""Tests /metrics: all names, and values that match what happened."""

import asyncio
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.builders.busy_service import finish, run_busy_service
from tests.support.builders.discord_service import run_discord_service as open_discord
from tests.support.builders.slack_service import run_slack_service as open_slack
from tests.support.builders.web_service import open_page
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.slack_server import FakeSlack

NAMES = {
    "answers": "counter",
    "answers_dropped": "counter",
    "cached_share": "gauge",
    "cached_tokens": "counter",
    "catchups": "counter",
    "caught_up_messages": "counter",
    "delivery_retries": "counter",
    "engine_memory_limit_bytes": "gauge",
    "engine_restarts": "counter",
    "event_loop_lag_seconds": "histogram",
    "first_token_seconds": "histogram",
    "generated_tokens": "counter",
    "gpu_memory_bytes": "gauge",
    "gpu_memory_used_bytes": "gauge",
    "info": "gauge",
    "kv_cache_used_share": "gauge",
    "memory_bytes": "gauge",
    "model_loaded": "gauge",
    "model_loads": "counter",
    "platform_connected": "gauge",
    "platform_errors": "counter",
    "platform_rate_limited": "counter",
    "prompt_tokens": "counter",
    "queue_limit": "gauge",
    "hosts": "gauge",
    "slots": "gauge",
    "queue_running": "gauge",
    "queue_waiting": "gauge",
    "ready": "gauge",
    "redeliveries_dropped": "counter",
    "server_failures": "counter",
    "server_requests": "counter",
    "server_running": "gauge",
    "server_up": "gauge",
    "tokens_per_second": "gauge",
    "waiting_seconds": "histogram",
}


async def test_all_names_are_there_with_their_kinds(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        _, text = await site.get("/metrics")
        found = {family.name: family.type for family in text_string_to_metric_families(text)}
        ours = {name.removeprefix("inhouse_"): kind for name, kind in found.items() if name.startswith("inhouse_")}
        assert {name: kind for name, kind in ours.items() if not name.endswith("_created")} == NAMES


async def test_openmetrics_is_spoken_to_who_asks_for_it(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        status, _ = await site.get("/metrics", Accept="application/openmetrics-text; version=x")
        assert status == 200
        _, text = await site.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")


async def test_a_conversation_is_counted(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        setup.platform.gates.hold("hello/1")
        await setup.team.says("ana", "hello")
        await setup.platform.gates.reached("hello/1")
        await setup.team.says("ben", "me too")
        assert await site.metric("inhouse_queue_running") == 1
        assert await site.metric("inhouse_queue_waiting") == 1
        assert await site.metric("inhouse_first_token_seconds_count") == 1
        await setup.platform.gates.open("hello/1")
        await setup.team.reply_to("me too")
        assert await site.metric('inhouse_answers_total{reason="stop"}') == 2
        # The scripted engine counts words as tokens, and reports half of the prompt as cached.
        assert await site.metric("inhouse_prompt_tokens_total") == 1 + 6
        assert await site.metric("inhouse_cached_tokens_total") == 0 + 3
        assert await site.metric("inhouse_cached_share") == 3 / 7
        assert await site.metric("inhouse_generated_tokens_total") == 3 + 4
        assert await site.metric("inhouse_waiting_seconds_count") == 2
        assert await site.metric("inhouse_queue_running") == 0


async def test_loads_and_restarts_of_the_engine_are_counted(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        setup.engine.answers("hello", "a b c", dies_at=1, deaths=1)
        setup.engine.bad["broken"] = "It is broken."
        await setup.team.asks("ana", "hello")
        await setup.team.told("model", "broken")
        await setup.team.asks("ana", "again")
        assert await site.metric("inhouse_engine_restarts_total") == 1
        assert await site.metric('inhouse_model_loads_total{model="small",outcome="loaded"}') == 3
        assert await site.metric('inhouse_model_loads_total{model="broken",outcome="failed"}') == 1
        assert await site.metric('inhouse_model_loaded{device="cpu",model="small"}') == 1


async def test_what_comes_again_is_counted_as_dropped(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        message = await setup.team.sends("ana", "hello")
        await setup.team.reply_to("hello")
        command = await setup.team.gives("reset")
        await setup.platform.outcome(command)
        assert await site.metric("inhouse_redeliveries_dropped_total") == 0
        await setup.platform.deliver_again(message)
        await setup.platform.deliver_again(command)
        assert await site.metric("inhouse_redeliveries_dropped_total") == 2


async def test_sessions_and_what_was_read_back_are_counted(tmp_path: Path) -> None:
    of = '{platform="scripted"}'
    async with ScriptedPlatform(redelivers=False) as platform, open_page(tmp_path, platform=platform) as (setup, site):
        await setup.adapter.caught_up.wait()
        assert await site.metric(f"inhouse_platform_connected{of}") == 1
        assert await site.metric(f"inhouse_catchups_total{of}") == 1
        assert await site.metric(f"inhouse_caught_up_messages_total{of}") == 0
        assert await site.metric(f"inhouse_platform_rate_limited_total{of}") == 0
        await setup.team.says("ana", "hello", at=time.time())
        await setup.team.reply_to("hello")
        platform.cut()
        await setup.team.sends("ana", "missed", at=time.time())
        await setup.team.reply_to("missed")
        assert await site.metric(f"inhouse_catchups_total{of}") == 2
        assert await site.metric(f"inhouse_caught_up_messages_total{of}") == 1


async def test_memory_and_a_gpu(tmp_path: Path) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        assert await site.metric("inhouse_gpu_memory_used_bytes") == 32_700 * 2**20
        assert await site.metric("inhouse_gpu_memory_bytes") == 49_140 * 2**20
        assert await site.metric('inhouse_memory_bytes{process="engine"}') == 2_310 * 2**20
        assert await site.metric('inhouse_memory_bytes{process="service"}') > 2**20
        assert await site.metric("inhouse_kv_cache_used_share") == 1 - 37 / 80
        assert await site.metric("inhouse_tokens_per_second") == 38.4
        assert await site.metric("inhouse_ready") == 1
        await finish(setup)


async def test_a_late_event_loop_is_measured(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        before = await site.metric("inhouse_event_loop_lag_seconds_sum")
        time.sleep(0.7)  # noqa: ASYNC251 -- blocks the loop on purpose
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await site.metric("inhouse_event_loop_lag_seconds_sum") > before + 0.4


async def test_discord_tells_its_429s_and_whether_it_is_connected(tmp_path: Path) -> None:
    async with FakeDiscord() as server, open_discord(tmp_path, server) as setup:
        adapter = setup.adapter
        await server.until(lambda: adapter.connected)
        assert adapter.rate_limited == 0
        server.limits.pause_all(1.0)
        question = await setup.ana.says(setup.general, "hello", mention=True)
        assert await setup.answer_to(question) == "You said: hello"
        assert adapter.rate_limited == server.rate_limited > 0


async def test_slack_tells_its_429s_and_whether_it_is_connected(tmp_path: Path) -> None:
    async with FakeSlack() as server, open_slack(tmp_path, server) as setup:
        adapter = setup.adapter
        await server.until(lambda: adapter.connected)
        assert adapter.rate_limited == 0
        server.limits.exhaust("chat.postMessage", 1.0, setup.general.id)
        server.streams_enabled = False
        question = await setup.ana.says(setup.general, "hello", mention=True)
        assert await setup.answer_to(question) == "You said: hello"
        assert adapter.rate_limited == 1
        server.sockets.kill()
        await server.until(lambda: not adapter.connected)
        await server.until(lambda: adapter.connected)
    assert not adapter.connected
