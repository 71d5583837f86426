"""Tests the blocks of an answer on Slack: slack_sdk's models accept them, and ids identify each button's action."""

from dataclasses import replace
from typing import Any

import pytest
from slack_sdk.models.blocks import Block

from adapters.slack.outbound import blocks
from adapters.slack.outbound.posting import MAX_CHARS
from bot.types.buttons import Button, parse_button_id
from bot.types.messages import ActionKind, ConversationKey, Person, Reply

REPLY = Reply("a" * 20, "f" * 32, ConversationKey("slack", "T1", "C1", "1.2"), 0, "1.2", Person("U1", "ana"), "Hello")
ENDED = (ActionKind.REGENERATE, ActionKind.CONTINUE, ActionKind.GOOD, ActionKind.BAD)
ALL = [(), (ActionKind.STOP,), ENDED, (ActionKind.RERUN, ActionKind.GOOD), tuple(ActionKind)]


def accepted(items: list[dict[str, Any]]) -> list[dict[str, Any]]:  # Any: blocks
    """Checks blocks with slack_sdk's models and returns them."""
    for item in items:
        parsed = Block.parse(item)
        assert parsed is not None
        parsed.validate_json()
    assert len(str(items)) < 13_200
    return items


@pytest.mark.parametrize("buttons", ALL)
@pytest.mark.parametrize("feedback", [True, False])
def test_every_answer_is_made_of_blocks_that_slack_takes(buttons: tuple[ActionKind, ...], feedback: bool) -> None:
    reply = replace(REPLY, buttons=buttons)
    shown = accepted(blocks.answer(reply, "x" * MAX_CHARS, feedback=feedback))
    assert shown[0] == {"type": "markdown", "text": "x" * MAX_CHARS}
    pressed = [element for block in shown[1:] for element in block["elements"]]
    ids = [element["action_id"] for element in pressed]
    assert len(ids) == len(set(ids))
    assert all(len(each) <= 255 for each in ids)
    kinds = [found.kind for each in ids if (found := parse_button_id(each))]
    native = feedback and {ActionKind.GOOD, ActionKind.BAD} <= set(buttons)
    assert kinds == [kind for kind in buttons if not (native and kind in (ActionKind.GOOD, ActionKind.BAD))]
    assert ("feedback_buttons" in [element["type"] for element in pressed]) == native


def test_the_native_feedback_says_in_its_values_what_was_pressed() -> None:
    shown = blocks.answer(replace(REPLY, buttons=ENDED), "Hello", feedback=True)
    (element,) = shown[-1]["elements"]
    assert parse_button_id(element["action_id"]) is None
    for side, kind in (("positive_button", ActionKind.GOOD), ("negative_button", ActionKind.BAD)):
        assert parse_button_id(element[side]["value"]) == Button(kind, REPLY.reply_id, REPLY.request_id)


@pytest.mark.parametrize("text", ["", "ih", "ih:stop:a", "ih:dance:a:b", "xx:stop:a:b", "ih:stop:a:b:c"])
def test_what_is_not_ours_is_left_alone(text: str) -> None:
    assert parse_button_id(text) is None


def test_a_message_says_which_reply_it_is() -> None:
    told = blocks.metadata(REPLY)
    assert told["event_type"] == "inhouse_reply"
    assert told["event_payload"]["part"] == 0
    assert told["event_payload"]["question_id"] == REPLY.question_id
    assert blocks.reply_id_of({"metadata": told}) == REPLY.reply_id
    stop = blocks.buttons(replace(REPLY, buttons=(ActionKind.STOP,)), feedback=False)
    assert blocks.reply_id_of({"blocks": stop}) == REPLY.reply_id
    assert blocks.reply_id_of({"metadata": blocks.note_metadata()}) == ""


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"metadata": 1, "blocks": 2},
        {"metadata": {"event_payload": []}},
        {"blocks": [None, {"elements": None}, {"elements": [1, {}]}]},
    ],
)
def test_odd_messages_say_nothing(message: dict[str, Any]) -> None:  # Any: JSON from Slack
    assert blocks.reply_id_of(message) == ""
