"""Tests the assistant view: suggested prompts and thread titles, and that their failures have no effect."""

import asyncio

import pytest

from bot.types.messages import IncomingMessage
from tests.support.builders.slack_adapter import Stage, key_of, on_stage

TITLE, PROMPTS = "assistant.threads.setTitle", "assistant.threads.setSuggestedPrompts"


async def settled(stage: Stage) -> None:
    """Waits for the adapter's background tasks."""
    while running := [task for task in asyncio.all_tasks() if "AssistantView" in repr(task)]:
        await asyncio.wait(running)


async def test_a_new_thread_suggests_what_may_be_asked() -> None:
    async with on_stage() as stage:
        channel, thread = await stage.ana.opens_assistant()
        await stage.server.until(lambda: stage.server.extras.prompts)
        ((where, prompts),) = stage.server.extras.prompts.items()
        assert where == (channel.id, thread)
        assert 1 <= len(prompts) <= 4
        await stage.server.until(lambda: [ack for ack in stage.server.acks if not ack.late])
        assert not stage.core.events


async def test_a_thread_is_named_once_after_its_first_message() -> None:
    async with on_stage() as stage:
        channel, thread = await stage.ana.opens_assistant()
        await stage.ana.says(channel, "why is\n the   sky blue " + "and so on " * 10, thread=thread)
        await stage.server.until(lambda: stage.server.extras.titles)
        title = stage.server.extras.titles[channel.id, thread]
        assert title.startswith("why is the sky blue and so on")
        assert title.endswith("…")
        assert len(title) <= 60
        await stage.ana.says(channel, "and the sea?", thread=thread)
        await stage.core.message(2)
        await settled(stage)
        assert [call.method for call in stage.server.calls].count(TITLE) == 1
        assert {event.key for event in await stage.core.got(IncomingMessage, 2)} == {key_of(channel, thread)}


async def test_outside_of_the_agent_view_nothing_is_named() -> None:
    async with on_stage() as stage:
        await stage.ana.says(stage.general, "hello", mention=True)
        await stage.ana.says(stage.server.dm(stage.ana), "hello")
        await stage.core.message(2)
        await settled(stage)
        assert TITLE not in [call.method for call in stage.server.calls]


@pytest.mark.parametrize("method", [TITLE, PROMPTS])
@pytest.mark.parametrize("fault", ["refused", "lost", "broken"])
async def test_what_fails_there_disturbs_nobody(method: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    async with on_stage() as stage:
        if fault == "refused":
            stage.server.faults.refuse(method, "missing_scope")
        elif fault == "lost":
            stage.server.faults.drop(method, applied=False, times=2)  # aiohttp retries once
        else:
            stage.server.faults.answer(method, status=500)
        channel, thread = await stage.ana.opens_assistant()
        await stage.ana.says(channel, "hello", thread=thread)
        await stage.core.message()
        await stage.server.until(lambda: method in [call.method for call in stage.server.calls])
        await settled(stage)
        await stage.server.until(lambda: len([ack for ack in stage.server.acks if not ack.late]) == 2)
        assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
