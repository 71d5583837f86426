"""Converts the fake's state to Slack's JSON: users, channels, messages and files in responses and events.

Markdown blocks come back as rich text, as in Slack: the bot reads other blocks than it sent.
"""

import hashlib
import re
import time

from tests.support.fakes.slack.state import CHANNEL, GROUP, IM, Channel, File, Json, Message, User

APP_ID, TEAM_ID = "A0INHOUSE01", "T0WORKSHOP1"


def user(who: User) -> Json:
    """A user as in users.info."""
    names = {"real_name": who.name.title(), "display_name": who.name, "display_name_normalized": who.name}
    return {
        "id": who.id,
        "team_id": who.team or TEAM_ID,
        "name": who.name,
        "deleted": who.deleted,
        "real_name": who.name.title(),
        "tz": "Europe/Amsterdam",
        "is_admin": who.admin,
        "is_owner": False,
        "is_bot": bool(who.bot_id),
        "is_app_user": False,
        "is_restricted": who.guest,
        "is_ultra_restricted": False,
        "profile": names | ({"bot_id": who.bot_id, "api_app_id": APP_ID} if who.bot_id else {}),
    }


def channel(where: Channel) -> Json:
    """A conversation as in conversations.info."""
    told: Json = {
        "id": where.id,
        "created": int(where.created),
        "is_archived": where.archived,
        "is_im": where.kind == IM,
        "is_org_shared": False,
    }
    if where.person is not None:
        return told | {"user": where.person.id, "is_user_deleted": where.person.deleted, "priority": 0}
    return told | {
        "name": where.name,
        "name_normalized": where.name,
        "is_channel": where.kind == CHANNEL,
        "is_group": where.kind == GROUP,
        "is_mpim": False,
        "is_private": where.kind == GROUP,
        "is_member": where.has_bot,
        "is_read_only": where.read_only,
        "num_members": len(where.members),
        "topic": {"value": "", "creator": "", "last_set": 0},
        "purpose": {"value": "", "creator": "", "last_set": 0},
    }


def file(what: File, base_url: str) -> Json:
    """A file, with the URL of its content for tokens with files:read."""
    address = f"{base_url}files-pri/{TEAM_ID}-{what.id}/{what.name}"
    return {
        "id": what.id,
        "created": int(what.created),
        "timestamp": int(what.created),
        "name": what.name,
        "title": what.title or what.name,
        "mimetype": what.mimetype,
        "filetype": what.name.rpartition(".")[2] if "." in what.name else "text",
        "user": what.user.id,
        "user_team": TEAM_ID,
        "editable": False,
        "size": len(what.data),
        "mode": "hosted",
        "is_external": False,
        "is_public": False,
        "url_private": address,
        "url_private_download": address.replace("files-pri/", "files-pri/download/", 1),
        "file_access": "visible",
    }


def message(what: Message, base_url: str, metadata: bool = False) -> Json:
    """A message as in history, events and interactions; with its metadata if requested."""
    told: Json = {"type": "message", "user": what.author.id, "ts": what.ts, "text": what.text, "team": TEAM_ID}
    if what.subtype:
        told["subtype"] = what.subtype
    if what.tombstone:
        told |= {"user": "USLACKBOT", "text": "This message was deleted.", "hidden": True}
        del told["team"]
    elif what.author.bot_id:
        profile = {"id": what.author.bot_id, "app_id": APP_ID, "name": what.author.name, "team_id": TEAM_ID}
        told |= {"bot_id": what.author.bot_id, "app_id": APP_ID, "bot_profile": profile}
        told["blocks"] = translated(what.blocks) or _rich(what.text)
    else:
        told |= {"client_msg_id": _client_id(what.ts), "blocks": _rich(what.text)}
    if what.thread_ts:
        told["thread_ts"] = what.thread_ts
    told |= _thread(what)
    if what.files_:
        told |= {"files": [file(each, base_url) for each in what.files_], "upload": False}
    if what.reactions:
        told["reactions"] = [{"name": name, "users": who, "count": len(who)} for name, who in what.reactions.items()]
    if what.edited_ts:
        told["edited"] = {"user": what.author.id, "ts": what.edited_ts}
    if what.stream is not None and not what.versions[-1].edited:
        told["streaming_state"] = "completed" if what.stream.stopped_by == "app" else "in_progress"
    if metadata and what.metadata is not None:
        told["metadata"] = what.metadata
    return told | what.extra


def translated(blocks: list[Json]) -> list[Json]:
    """Blocks as Slack returns them: markdown as rich text, and an id for every block."""
    back = []
    for at, block in enumerate(blocks):
        if block.get("type") == "markdown":
            block = _rich(str(block.get("text", "")))[0]
        back.append({"block_id": _block_id(at), **block})
    return back


def _rich(text: str) -> list[Json]:
    """Text as a client sends it: one rich text block, in which mentions and links are elements of their own."""
    elements = [_element(piece) for piece in re.split(r"(<[^<>]*>)", text) if piece]
    section = {"type": "rich_text_section", "elements": elements}
    return [{"type": "rich_text", "block_id": _block_id(0), "elements": [section]}] if text else []


def _element(piece: str) -> Json:
    """An element of rich text; its text is not encoded."""
    target, _, label = piece[1:-1].partition("|")
    label = _decoded(label)
    if not piece.startswith("<"):
        return {"type": "text", "text": _decoded(piece)}
    if target.startswith("@"):
        return {"type": "user", "user_id": target[1:]}
    if target.startswith("#"):
        return {"type": "channel", "channel_id": target[1:]}
    if target.startswith("!subteam^"):
        return {"type": "usergroup", "usergroup_id": target.removeprefix("!subteam^")}
    if target.startswith("!"):
        return {"type": "broadcast", "range": target[1:]}
    link = {"type": "link", "url": _decoded(target)}
    return link | {"text": label} if label else link


def _decoded(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _thread(what: Message) -> Json:
    """The thread fields of a thread's first message, or of a reply."""
    replies = what.channel.replies(what.ts) if what.thread_ts in ("", what.ts) else []
    if replies:
        people = list(dict.fromkeys(each.author.id for each in replies))
        return {
            "thread_ts": what.ts,
            "reply_count": len(replies),
            "reply_users_count": len(people),
            "reply_users": people,
            "latest_reply": replies[-1].ts,
            "is_locked": False,
            "subscribed": False,
        }
    first = what.channel.find(what.thread_ts) if what.thread_ts not in ("", what.ts) else None
    return {"parent_user_id": "USLACKBOT" if first.tombstone else first.author.id} if first is not None else {}


def _client_id(ts: str) -> str:
    digest = hashlib.sha256(ts.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _block_id(at: int) -> str:
    return hashlib.sha256(f"block {at}".encode()).hexdigest()[:5]


def envelope_event(event: Json, event_id: str, bot: User) -> Json:
    """The payload of an events_api envelope."""
    who = {"enterprise_id": None, "team_id": TEAM_ID, "user_id": bot.id, "is_bot": True, "is_enterprise_install": False}
    return {
        "token": "a-verification-token",
        "team_id": TEAM_ID,
        "context_team_id": TEAM_ID,
        "context_enterprise_id": None,
        "api_app_id": APP_ID,
        "event": event,
        "type": "event_callback",
        "event_id": event_id,
        "event_time": int(time.time()),
        "authorizations": [who],
        "is_ext_shared_channel": False,
        "event_context": f"4-{event_id}",
    }
