"""Looks up people and channels: names, and what people may manage.

Results are cached. A person whom Slack does not describe before the deadline gets a placeholder.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.bot_identity import GetIdentity
from adapters.slack.error_mapping import mapped_errors
from adapters.slack.inbound.context_deadline import ContextDeadline
from adapters.slack.json_fields import Raw, body_of, object_of, text_of
from adapters.slack.message_text import decoded
from adapters.slack.payloads import is_private
from bot.types.errors import AdapterError
from bot.types.messages import Person

MAX_NAMES = 20
"""The most people, and the most channels, whose names are looked up for one text."""
TTL_S = 600.0
FAILURE_TTL_S = 30.0
"""How long a failed call is not tried again, seconds."""
MAX_ENTRIES = 5000
TEAM_TIMEOUT_S = 1.0
"""Timeout for looking up the workspace of a person, seconds; an answer waits for it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UserProfile:
    """A user account; `team` is the id of its workspace."""

    name: str = ""
    manages_workspace: bool = False
    team: str = ""


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """A channel's name and the user who created it."""

    name: str = ""
    creator: str = ""


class UserDirectory:
    """People and channels by id."""

    def __init__(self, web: AsyncWebClient, identity: GetIdentity) -> None:
        self._web, self._identity = web, identity
        self._profiles = TTLCache(self._fetch_profile, UserProfile())
        self._channels = TTLCache(self._fetch_channel, ChannelInfo())
        self._described: OrderedDict[str, UserProfile] = OrderedDict()  # by events

    def remember(self, user_id: str, name: str, team: str) -> None:
        """Keep what an event says about a user, for people of other workspaces whom Slack does not describe."""
        if not user_id or not (name or team):
            return
        self._described[user_id] = UserProfile(decoded(name), team=team)
        self._described.move_to_end(user_id)
        if len(self._described) > MAX_ENTRIES:
            self._described.popitem(last=False)

    async def team(self, user_id: str) -> str:
        """The id of a user's workspace, '' if it is not known."""
        if (described := self._described.get(user_id)) and described.team:
            return described.team
        profile = await ContextDeadline(TEAM_TIMEOUT_S).limit(self._profiles.get(user_id), UserProfile())
        return profile.team

    async def person(self, user_id: str, channel: str, deadline: ContextDeadline) -> Person:
        """The author of a message, who manages the channel if it is a direct conversation."""
        profile = await deadline.limit(self._profiles.get(user_id), self._profiles.cached(user_id))
        manages_channel = profile.manages_workspace or is_private(channel)
        name = profile.name or self._described.get(user_id, UserProfile()).name
        return Person(user_id, name or "someone", manages_channel, profile.manages_workspace)

    async def actor(self, user_id: str, channel: str, deadline: ContextDeadline) -> Person:
        """The person who acts; the creator of a channel manages it."""
        person, info = await asyncio.gather(
            self.person(user_id, channel, deadline), deadline.limit(self._channel(channel), ChannelInfo())
        )
        manages_channel = person.manages_channel or info.creator == user_id
        return Person(person.id, person.name, manages_channel, person.manages_workspace)

    async def names(self, users: Iterable[str], channels: Iterable[str], deadline: ContextDeadline) -> dict[str, str]:
        """The names of people and channels by id, as far as they are known before the deadline."""
        ids = [*list(users)[:MAX_NAMES], *list(channels)[:MAX_NAMES]]
        found = await asyncio.gather(*(deadline.limit(self._name(each), "") for each in ids))
        return dict(zip(ids, found, strict=True))

    async def close(self) -> None:
        """Cancel running calls."""
        await self._profiles.close()
        await self._channels.close()

    async def _name(self, each: str) -> str:
        cache = self._profiles if each.startswith(("U", "W")) else self._channels
        return (await cache.get(each)).name or self._described.get(each, UserProfile()).name

    async def _channel(self, channel: str) -> ChannelInfo:
        return ChannelInfo() if is_private(channel) else await self._channels.get(channel)

    async def _fetch_profile(self, user_id: str) -> UserProfile:
        async with mapped_errors():
            answer = await self._web.users_info(user=user_id)
        user = object_of(body_of(answer), "user")
        profile = object_of(user, "profile")
        name = text_of(profile, "display_name") or text_of(user, "real_name") or text_of(user, "name")
        is_admin = any(user.get(right) is True for right in ("is_admin", "is_owner", "is_primary_owner"))
        return UserProfile(decoded(name), is_admin and self._is_of_our_team(user), text_of(user, "team_id"))

    def _is_of_our_team(self, user: Raw) -> bool:
        """Whether a user is of our workspace: in Slack Connect, people are admins of their own one."""
        teams = object_of(user, "enterprise_user").get("teams")
        ours = self._identity().team_id
        return text_of(user, "team_id") in ("", ours) or (isinstance(teams, list) and ours in teams)

    async def _fetch_channel(self, channel: str) -> ChannelInfo:
        async with mapped_errors():
            answer = await self._web.conversations_info(channel=channel)
        info = object_of(body_of(answer), "channel")
        return ChannelInfo(decoded(text_of(info, "name")), text_of(info, "creator"))


class TTLCache(Generic[T]):
    """Caches the results of `fetch` for a time, up to a number; `unknown` stands for what could not be fetched.

    Concurrent lookups of a key share one call. Cancelling a lookup does not cancel the call, so the next lookup finds
    its result.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[T]], unknown: T) -> None:
        self._fetch, self._unknown = fetch, unknown
        self._entries: OrderedDict[str, tuple[float, T]] = OrderedDict()  # when it expires, and the value
        self._fetching: dict[str, asyncio.Task[T]] = {}

    async def get(self, key: str) -> T:
        """The cached value, or a fetched one. Never raises."""
        now = asyncio.get_running_loop().time()
        entry = self._entries.get(key)
        if entry is not None and now < entry[0]:
            self._entries.move_to_end(key)
            return entry[1]
        task = self._fetching.get(key)
        if task is None:
            task = self._fetching[key] = asyncio.create_task(self._load(key))
        return await asyncio.shield(task)

    def cached(self, key: str) -> T:
        """The last known value, also an expired one, without a call."""
        return self._entries[key][1] if key in self._entries else self._unknown

    async def close(self) -> None:
        """Cancel running calls."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, key: str) -> T:
        clock = asyncio.get_running_loop().time
        try:
            value, ttl = await self._fetch(key), TTL_S
        except AdapterError:
            value, ttl = self.cached(key), FAILURE_TTL_S
        finally:
            self._fetching.pop(key, None)
        self._entries[key] = (clock() + ttl, value)
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        return value
