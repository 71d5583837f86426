"""The read methods auth.test, conversations.*, users.*, bots.info and team.info, and conversations.open."""

import base64

from tests.support.fakes.slack import payloads
from tests.support.fakes.slack.api import Handler
from tests.support.fakes.slack.asks import Ask, SlackError
from tests.support.fakes.slack.messages import reach
from tests.support.fakes.slack.state import CHANNEL, Channel, Json, Message, User
from tests.support.fakes.slack.store import SlackStore

TEAM, TEAM_URL = "Workshop", "https://workshop.example/"
MAX_PAGE = 999


class PlaceMethods:
    """The methods about channels, users and the bot itself."""

    def __init__(self, store: SlackStore, app_token: str) -> None:
        self._store, self._app_token = store, app_token

    def methods(self) -> dict[str, Handler]:
        """Method to handler."""
        return {
            "auth.test": self.auth_test,
            "team.info": self.team_info,
            "users.info": self.user_info,
            "users.list": self.user_list,
            "bots.info": self.bot_info,
            "conversations.info": self.info,
            "conversations.list": self.list_all,
            "conversations.members": self.members,
            "conversations.open": self.open,
            "conversations.history": self.history,
            "conversations.replies": self.replies,
        }

    def auth_test(self, ask: Ask) -> Json:
        """The owner of the token."""
        if ask.token == self._app_token:
            return {"app_name": "Inhouse", "app_id": payloads.APP_ID}
        bot = self._store.bot
        return {
            "url": TEAM_URL,
            "team": TEAM,
            "user": bot.name,
            "team_id": payloads.TEAM_ID,
            "user_id": bot.id,
            "bot_id": bot.bot_id,
            "app_id": payloads.APP_ID,
            "is_enterprise_install": False,
        }

    def team_info(self, ask: Ask) -> Json:
        """The workspace."""
        return {"team": {"id": payloads.TEAM_ID, "name": TEAM, "domain": "workshop", "url": TEAM_URL}}

    def user_info(self, ask: Ask) -> Json:
        """A user."""
        return {"user": payloads.user(self._user(ask.required("user")))}

    def user_list(self, ask: Ask) -> Json:
        """All users."""
        return {"members": [payloads.user(each) for each in self._store.users.values()]}

    def bot_info(self, ask: Ask) -> Json:
        """A bot, by its bot id."""
        found = next((each for each in self._store.users.values() if each.bot_id == ask.required("bot")), None)
        if found is None:
            raise SlackError("bot_not_found")
        told = {"id": found.bot_id, "name": found.name, "user_id": found.id, "deleted": False}
        return {"bot": told | {"app_id": payloads.APP_ID if found is self._store.bot else "A0ANOTHER01"}}

    def info(self, ask: Ask) -> Json:
        """A conversation; public ones even if the bot is no member."""
        return {"channel": payloads.channel(self._seen(ask.required("channel")))}

    def list_all(self, ask: Ask) -> Json:
        """The conversations that the bot sees, of the requested types."""
        kinds = ask.text("types") or "public_channel"
        names = {"channel": "public_channel", "group": "private_channel", "im": "im"}
        seen = [each for each in self._store.channels.values() if each.kind == CHANNEL or each.has_bot]
        found = [payloads.channel(each) for each in seen if names[each.kind] in kinds.split(",")]
        return {"channels": found, "response_metadata": {"next_cursor": ""}}

    def members(self, ask: Ask) -> Json:
        """The members of a conversation."""
        channel = self._seen(ask.required("channel"))
        return {"members": [each.id for each in channel.members], "response_metadata": {"next_cursor": ""}}

    def open(self, ask: Ask) -> Json:
        """Opens the direct message with a user."""
        if ask.text("channel"):
            channel = self._seen(ask.text("channel"))
        else:
            people = [self._user(each) for each in ask.required("users").split(",")]
            if len(people) > 1:
                raise SlackError("not_enough_users")
            if people[0] is self._store.bot:
                raise SlackError("cannot_dm_bot")
            channel = self._store.dm(people[0])
        return {"channel": payloads.channel(channel) if ask.flag("return_im") else {"id": channel.id}}

    def history(self, ask: Ask) -> Json:
        """A channel's messages, newest first, without thread replies."""
        channel = reach(self._store, ask.required("channel"))
        found = [
            each for each in channel.history if each.thread_ts in ("", each.ts) or each.subtype == "thread_broadcast"
        ]
        return self._page(ask, _between(ask, found)[::-1], default=100) | {"pin_count": 0}

    def replies(self, ask: Ask) -> Json:
        """A thread's messages, oldest first; the first one is included regardless of the bounds."""
        channel = reach(self._store, ask.required("channel"))
        asked = channel.find(ask.required("ts"))
        first = channel.find(asked.thread_ts) if asked is not None and asked.thread_ts else asked
        if first is None:
            raise SlackError("thread_not_found")
        return self._page(ask, _between(ask, channel.replies(first.ts)), default=1000, always=[first])

    def _page(self, ask: Ask, found: list[Message], default: int, always: list[Message] | None = None) -> Json:
        """One page of messages, with the cursor of the next."""
        limit = ask.number("limit", default)
        if not 1 <= limit <= 1000:
            raise SlackError("invalid_limit")
        limit = min(limit, self._store.page_limit)
        start = _start(ask.text("cursor"))
        metadata = ask.flag("include_all_metadata")
        page = [*(always or []), *found[start : start + limit]]
        told: Json = {"messages": [payloads.message(each, self._store.base_url, metadata) for each in page]}
        more = len(found) > start + limit
        if more:
            told["response_metadata"] = {"next_cursor": base64.b64encode(f"next:{start + limit}".encode()).decode()}
        return told | {"has_more": more}

    def _seen(self, channel_id: str) -> Channel:
        channel = self._store.channels.get(channel_id)
        if channel is None or channel.deleted or (channel.kind != CHANNEL and not channel.has_bot):
            raise SlackError("channel_not_found")
        return channel

    def _user(self, user_id: str) -> User:
        if user_id not in self._store.users:
            raise SlackError("user_not_found")
        return self._store.users[user_id]


def _between(ask: Ask, found: list[Message]) -> list[Message]:
    """Messages within a call's bounds, which are exclusive by default."""
    oldest, latest, inclusive = ask.text("oldest"), ask.text("latest"), ask.flag("inclusive")
    for name, bound in (("oldest", oldest), ("latest", latest)):
        if bound and not bound.replace(".", "", 1).isdigit():
            raise SlackError(f"invalid_ts_{name}")
    low = _micros(oldest) if oldest else -1
    high = _micros(latest) if latest else 1 << 62
    if inclusive:
        return [each for each in found if low <= _micros(each.ts) <= high]
    return [each for each in found if low < _micros(each.ts) < high]


def _micros(ts: str) -> int:
    """A timestamp in whole microseconds; a float would lose its last digits."""
    seconds, _, rest = ts.partition(".")
    return int(seconds) * 1_000_000 + int((rest + "000000")[:6])


def _start(cursor: str) -> int:
    if not cursor:
        return 0
    try:
        return int(base64.b64decode(cursor).decode().removeprefix("next:"))
    except ValueError:
        raise SlackError("invalid_cursor") from None
