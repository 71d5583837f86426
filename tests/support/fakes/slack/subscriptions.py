"""Event subscriptions, and the scopes that they and the Web API's methods need.

A subscription needs all scopes of its set; a method accepts any one of its scopes.
"""

from typing import Any

Json = dict[str, Any]  # Any: JSON values

_EVENT_SCOPES = {
    "app_mention": "app_mentions:read",
    "message.channels": "channels:history",
    "message.groups": "groups:history",
    "message.im": "im:history",
    "assistant_thread_started": "assistant:write",
    "assistant_thread_context_changed": "assistant:write",
    "reaction_added": "reactions:read",
    "reaction_removed": "reactions:read",
    "app_home_opened": "",
    "file_shared": "files:read",
    "member_joined_channel": "channels:read",
}
ALL_EVENTS = frozenset(_EVENT_SCOPES)
ALL_SCOPES = frozenset(
    [
        "app_mentions:read",
        "assistant:write",
        "channels:history",
        "channels:read",
        "chat:write",
        "commands",
        "files:read",
        "files:write",
        "groups:history",
        "groups:read",
        "im:history",
        "im:read",
        "im:write",
        "reactions:read",
        "reactions:write",
        "team:read",
        "users:read",
    ]
)
_PLACES = {"channel": "channels", "group": "groups", "im": "im"}
_METHOD_SCOPES = {
    "chat.postMessage": ("chat:write",),
    "chat.postEphemeral": ("chat:write",),
    "chat.update": ("chat:write",),
    "chat.delete": ("chat:write",),
    "chat.startStream": ("chat:write",),
    "chat.appendStream": ("chat:write",),
    "chat.stopStream": ("chat:write",),
    "conversations.open": ("im:write",),
    "users.info": ("users:read",),
    "users.list": ("users:read",),
    "bots.info": ("users:read",),
    "team.info": ("team:read",),
    "reactions.add": ("reactions:write",),
    "reactions.remove": ("reactions:write",),
    "files.getUploadURLExternal": ("files:write",),
    "files.completeUploadExternal": ("files:write",),
    "files.info": ("files:read",),
    "files.delete": ("files:write",),
    "assistant.threads.setStatus": ("chat:write", "assistant:write"),
    "assistant.threads.setTitle": ("assistant:write",),
    "assistant.threads.setSuggestedPrompts": ("assistant:write",),
}


def message_event(event: Json) -> str:
    """The subscription of a `message` event: message.channels, message.groups or message.im."""
    return "message." + {"channel": "channels", "group": "groups", "im": "im"}[event["channel_type"]]


def needed(event: str) -> set[str]:
    """The scopes of a subscription."""
    return {_EVENT_SCOPES[event]} - {""} if event in _EVENT_SCOPES else set()


def method_scopes(method: str, kind: str = "") -> tuple[str, ...]:
    """Scopes of a method, any of which is enough; those of conversations.* depend on the channel's kind."""
    if method in ("conversations.history", "conversations.replies"):
        return (f"{_PLACES.get(kind, 'channels')}:history",)
    if method in ("conversations.info", "conversations.members", "conversations.list"):
        return (f"{_PLACES.get(kind, 'channels')}:read",)
    return _METHOD_SCOPES.get(method, ())
