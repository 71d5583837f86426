"""Parts of Discord messages besides their text: an embed, components, a poll, a forwarded message."""

from typing import Any

from tests.support.fakes.discord.state import Json

TIME = "2026-01-01T10:00:00+00:00"
BUILD = {
    "type": "rich",
    "title": "Build 42 failed",
    "url": "https://ci.example/42",
    "description": "node-7 ran out of disk",
    "author": {"name": "CI"},
    "fields": [{"name": "Branch", "value": "main"}, {"name": "Tries", "value": "3", "inline": True}],
    "footer": {"text": "since 10:00"},
}
BUILD_TEXT = """CI
**[Build 42 failed](https://ci.example/42)**
node-7 ran out of disk
**Branch:** main
**Tries:** 3
since 10:00"""
TEXT_DISPLAYS = [
    {"type": 10, "id": 1, "content": "# Deploy"},
    {
        "type": 17,
        "id": 2,
        "components": [
            {
                "type": 9,
                "id": 3,
                "components": [{"type": 10, "id": 4, "content": "api: **failed**"}],
                "accessory": {"type": 2, "style": 5, "label": "Log", "url": "https://ci.example"},
            },
            {"type": 14, "id": 5, "spacing": 1, "divider": True},
            {"type": 10, "id": 6, "content": "web: ok"},
        ],
    },
]
POLL = {
    "question": {"text": "Where to eat?"},
    "answers": [
        {"answer_id": 1, "poll_media": {"text": "Pizza"}},
        {"answer_id": 2, "poll_media": {"text": "Sushi", "emoji": {"id": None, "name": "🍣"}}},
    ],
    "expiry": "2026-01-02T10:00:00+00:00",
    "allow_multiselect": False,
    "layout_type": 1,
}
VOTES = {"is_finalized": True, "answer_counts": [{"id": 1, "count": 2, "me_voted": False}]}
POLL_TEXT = "**Poll: Where to eat?**\n- Pizza\n- 🍣 Sushi"
STICKER = {"id": "9", "name": "Wave", "format_type": 1}


def forwarded(text: str, **more: Any) -> Json:  # Any: JSON
    """What a message that forwards another one has besides its text, which is empty."""
    snapshot = {
        "type": 0,
        "content": text,
        "embeds": [],
        "attachments": [],
        "timestamp": TIME,
        "edited_timestamp": None,
    }
    reference = {"type": 1, "message_id": "5", "channel_id": "6"}
    return {"message_reference": reference, "message_snapshots": [{"message": snapshot | {"flags": 0} | more}]}
