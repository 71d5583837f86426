"""Tests malformed Slack payloads through the real Bolt and Socket Mode: each affects only itself."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders.malformed_json import JUNK, broken
from tests.support.builders.slack_adapter import SlackAdapterSetup, run_slack_adapter
from tests.support.fakes.slack import payloads
from tests.support.fakes.slack.state import Json, Message

KINDS = ("message", "app_mention", "changed", "deleted", "press", "shortcut", "command", "assistant")


def samples(setup: SlackAdapterSetup, message: Message) -> dict[str, tuple[str, Json]]:
    """A valid payload of each kind, with the type of its envelope."""
    whole = payloads.message(message, setup.server.api_url) | {"channel": setup.general.id}
    who = {"user": {"id": setup.ana.id, "name": "ana"}, "team": {"id": payloads.TEAM_ID}, "trigger_id": "1.2.a"}
    place = {"channel": {"id": setup.general.id, "name": "general"}, "response_url": "http://127.0.0.1:9/none"}

    def event(inner: Json) -> tuple[str, Json]:
        body = {"type": "event_callback", "team_id": payloads.TEAM_ID, "event_id": "Ev1", "event_time": 1}
        return "events_api", {**body, "event": inner}

    change = {"type": "message", "channel": setup.general.id, "ts": "1700000000.000100", "hidden": True}
    button = {"type": "button", "action_id": f"ih:stop:{'a' * 20}:{'0' * 32}", "block_id": "b", "action_ts": "1.2"}
    return {
        "message": event(whole),
        "app_mention": event({**whole, "type": "app_mention"}),
        "changed": event({**change, "subtype": "message_changed", "message": whole, "previous_message": whole}),
        "deleted": event({**change, "subtype": "message_deleted", "deleted_ts": whole["ts"]}),
        "press": ("interactive", {"type": "block_actions", "actions": [button], "message": whole, **who, **place}),
        "shortcut": (
            "interactive",
            {
                "type": "message_action",
                "callback_id": "ih:forget",
                "message": whole,
                "message_ts": "1.2",
                **who,
                **place,
            },
        ),
        "command": (
            "slash_commands",
            {
                "command": "/inhouse",
                "text": "status",
                "user_id": setup.ana.id,
                "channel_id": setup.general.id,
                "team_id": payloads.TEAM_ID,
                "trigger_id": "1.2.b",
                "response_url": "http://127.0.0.1:9/none",
            },
        ),
        "assistant": event(
            {
                "type": "assistant_thread_started",
                "assistant_thread": {"user_id": setup.ana.id, "channel_id": "D1", "thread_ts": "1.2", "context": {}},
            }
        ),
    }


async def good_one_is_served(setup: SlackAdapterSetup, text: str) -> None:
    """Asserts that a new message arrives through the existing socket."""
    said = await setup.ana.says(setup.general, text, mention=True)
    await setup.server.until(lambda: said.ts in [getattr(event, "message_id", "") for event in setup.core.events])
    assert setup.server.sockets.opened == 1
    assert not setup.running.done()


@pytest.mark.fault(44)
@settings(max_examples=max(5, settings().max_examples // 10))
@given(data=st.data())
async def test_a_malformed_payload_costs_itself_only(data: st.DataObject, caplog: pytest.LogCaptureFixture) -> None:
    async with run_slack_adapter() as setup:
        message = await setup.ana.says(setup.general, "a sample", mention=True, files={"a.txt": b"x"})
        await setup.core.message()
        right = samples(setup, message)
        for number, kind in enumerate(data.draw(st.permutations(KINDS))):
            envelope, payload = right[kind]
            for wrong in data.draw(st.lists(broken(payload), min_size=1, max_size=3)):
                setup.server.sockets.send(f"Ev{number}", envelope, kind, wrong, again=False)
        await good_one_is_served(setup, "and a good one")
    wrong_lines = [
        record for record in caplog.records if record.name == "asyncio" or "Traceback" in record.getMessage()
    ]
    assert not wrong_lines, "\n".join(logging.Formatter().format(record) for record in wrong_lines)


@pytest.mark.fault(44)
@settings(max_examples=max(3, settings().max_examples // 20))
@given(st.lists(st.tuples(st.sampled_from(["events_api", "interactive", "slash_commands", "odd"]), JUNK), max_size=20))
async def test_nor_does_one_that_is_no_object(junk: list[tuple[str, Any]]) -> None:
    async with run_slack_adapter() as setup:
        for number, (envelope, payload) in enumerate(junk):
            setup.server.sockets.send(f"Ev{number}", envelope, "odd", payload, again=False)
        await good_one_is_served(setup, "a good one")
