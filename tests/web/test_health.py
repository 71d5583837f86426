"""Tests what the status page says about a service that is ready and works badly: slow or degraded, with reasons."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from bot.web import health
from tests.support.builders.service import ServiceSetup
from tests.support.builders.web_service import Moment, Site, open_page


async def reasons(site: Site, state: str) -> list[str]:
    """Waits until the page shows this state; its reasons."""
    async with site.events() as events:
        now = await events.until(lambda moment: moment["health"]["state"] == state and not moment["unready"])
    assert await site.get("/readyz") == (200, "ready\n")
    found: list[str] = now["health"]["reasons"]
    return found


async def hold_two(setup: ServiceSetup) -> None:
    """Lets one answer begin and one question wait behind it."""
    setup.platform.gates.hold("one/1")
    await setup.team.says("ana", "one")
    await setup.platform.gates.reached("one/1")
    await setup.team.says("ben", "two")


async def finish_two(setup: ServiceSetup) -> None:
    await setup.platform.gates.open("one/1")
    for question in ("one", "two"):
        await setup.team.reply_to(question)


async def test_a_service_without_trouble_is_ready(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        await hold_two(setup)
        assert await reasons(site, "ready") == []
        await finish_two(setup)


async def test_a_wait_that_is_too_long_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_page(tmp_path) as (setup, site):
        await hold_two(setup)
        (waiting,) = site.web.live_state.queue.waiting()
        monkeypatch.setattr("bot.web.health.time.time", lambda: waiting.accepted_at + 660)
        assert await reasons(site, "slow") == ["a question has waited about 11 min"]
        await finish_two(setup)


async def test_estimates_and_first_words_that_are_too_long_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_page(tmp_path) as (setup, site):
        await setup.team.asks("ana", "hello")
        monkeypatch.setattr(health, "SLOW_S", 0.0)
        (begin,) = await reasons(site, "slow")
        assert begin.startswith("answers begin after about ")
        await hold_two(setup)
        waited, expected = await reasons(site, "slow")
        assert waited.startswith("a question has waited about ")
        assert expected.startswith("the last one in the queue waits about ")
        await finish_two(setup)


async def test_after_deaths_of_the_engine_what_is_tried_again_is_named(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        rooms = {question: setup.team.elsewhere(channel=question) for question in ("one", "two")}
        queue = site.web.live_state.queue

        async def run_again(deaths: int, running: int) -> None:
            """Waits until both questions were requeued after this many deaths, and some of them run."""

            def runs() -> bool:
                unfinished = (*queue.running(), *queue.waiting())
                return [request.attempts for request in unfinished] == [deaths] * 2 and len(
                    setup.engine.running_now()
                ) == running

            await setup.platform.until(runs, "they run again")

        for question, room in rooms.items():
            setup.platform.gates.hold(f"{question}/1")
            await room.says("ana", question)
        await run_again(0, running=2)
        setup.engine.die()
        await run_again(1, running=2)
        assert await reasons(site, "degraded") == ["2 questions tried again after a failure"]
        setup.engine.die()
        await run_again(2, running=1)
        assert await reasons(site, "degraded") == [
            "the engine restarted 2 times in ten minutes",
            "2 questions tried again after a failure, one at a time to find the one that ends the engine",
        ]
        for question, room in rooms.items():
            await setup.platform.gates.open(f"{question}/1")
            await room.reply_to(question)


async def test_a_restart_is_shown_as_one(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        setup.engine.die()
        setup.platform.gates.hold("half small")
        await setup.team.says("ana", "hello")
        await setup.platform.gates.reached("half small")
        async with site.events() as events:
            now = await events.until(lambda moment: moment["loading"] is not None)
        assert now["unready"] == "the engine is restarting (50%)"
        assert now["loading"]["again"]
        await setup.platform.gates.open("half small")
        await setup.team.reply_to("hello")


@pytest.mark.parametrize(("refused", "kind", "state"), [(5, "retry_later", "degraded"), (4, "retry_later", "ready")])
async def test_a_platform_that_refuses_calls_degrades_the_service(
    tmp_path: Path, refused: int, kind: str, state: str
) -> None:
    async with open_page(tmp_path) as (_, site):
        async with site.events() as events:
            await events.until(lambda moment: moment["sample"] is not None)
        for _ in range(refused):
            site.web.live_state.metrics.platform_failed("scripted", kind)
        for _ in range(20):
            site.web.live_state.metrics.platform_failed("scripted", "gone")  # people deleted their questions
        found = await reasons(site, state)
        assert found == (["scripted refused 5 calls in the last minute"] if state == "degraded" else [])


async def test_one_of_two_platforms_that_is_away_or_stopped_degrades_the_service(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        adapters: Mapping[str, object] = site.web.live_state.adapters
        adapters["slack"] = adapters["scripted"]  # type: ignore[index]  # the service's own
        assert await reasons(site, "degraded") == ["slack is not connected"]
        site.web.live_state.refusals["slack"] = "The token was revoked."  # type: ignore[index]  # the service's own
        found: list[Moment] = []
        async with site.events() as events:
            found.append(await events.until(lambda moment: moment["health"]["reasons"] != ["slack is not connected"]))
        assert found[0]["health"] == {"state": "degraded", "reasons": ["slack is stopped"]}
