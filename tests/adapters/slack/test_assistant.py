"""Tests the assistant view: suggested prompts and thread titles, and that their failures have no effect."""

import asyncio

import pytest

from bot.types.messages import IncomingMessage
from tests.support.builders.slack_adapter import SlackAdapterSetup, key_of, run_slack_adapter

TITLE, PROMPTS = "assistant.threads.setTitle", "assistant.threads.setSuggestedPrompts"


async def settled(setup: SlackAdapterSetup) -> None:
    """Waits for the adapter's background tasks."""
    while running := [task for task in asyncio.all_tasks() if "AssistantView" in repr(task)]:
        await asyncio.wait(running)


async def test_a_new_thread_suggests_what_may_be_asked() -> None:
    async with run_slack_adapter() as setup:
        channel, thread = await setup.ana.opens_assistant()
        await setup.server.until(lambda: setup.server.extras.prompts)
        ((where, prompts),) = setup.server.extras.prompts.items()
        assert where == (channel.id, thread)
        assert 1 <= len(prompts) <= 4
        await setup.server.until(lambda: [ack for ack in setup.server.acks if not ack.late])
        assert not setup.core.events


async def test_a_thread_is_named_once_after_its_first_message() -> None:
    async with run_slack_adapter() as setup:
        channel, thread = await setup.ana.opens_assistant()
        await setup.ana.says(channel, "why is\n the   sky blue " + "and so on " * 10, thread=thread)
        await setup.server.until(lambda: setup.server.extras.titles)
        title = setup.server.extras.titles[channel.id, thread]
        assert title.startswith("why is the sky blue and so on")
        assert title.endswith("…")
        assert len(title) <= 60
        await setup.ana.says(channel, "and the sea?", thread=thread)
        await setup.core.message(2)
        await settled(setup)
        assert [call.method for call in setup.server.calls].count(TITLE) == 1
        assert {event.key for event in await setup.core.got(IncomingMessage, 2)} == {key_of(channel, thread)}


async def test_outside_of_the_agent_view_nothing_is_named() -> None:
    async with run_slack_adapter() as setup:
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.ana.says(setup.server.dm(setup.ana), "hello")
        await setup.core.message(2)
        await settled(setup)
        assert TITLE not in [call.method for call in setup.server.calls]


@pytest.mark.parametrize("method", [TITLE, PROMPTS])
@pytest.mark.parametrize("fault", ["refused", "lost", "broken"])
async def test_a_failing_status_call_stops_no_answer(method: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    async with run_slack_adapter() as setup:
        if fault == "refused":
            setup.server.faults.refuse(method, "missing_scope")
        elif fault == "lost":
            setup.server.faults.drop(method, applied=False, times=2)  # aiohttp retries once
        else:
            setup.server.faults.answer(method, status=500)
        channel, thread = await setup.ana.opens_assistant()
        await setup.ana.says(channel, "hello", thread=thread)
        await setup.core.message()
        await setup.server.until(lambda: method in [call.method for call in setup.server.calls])
        await settled(setup)
        await setup.server.until(lambda: len([ack for ack in setup.server.acks if not ack.late]) == 2)
        assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
