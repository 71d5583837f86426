"""Who says something, with what Slack lets them do there.

In: ids. Out: our Person. It promises that a name is asked for once in a while only, and that somebody whom Slack does
not tell about in time can still be answered.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.failures import mapped
from adapters.slack.memory import Memory
from adapters.slack.patience import Patience
from adapters.slack.payloads import body_of, is_private, object_of, text_of
from adapters.slack.text import decoded
from bot.messages import Person

MOST_NAMES = 20
"""So many people and channels that one text mentions get their names."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Somebody with an account."""

    name: str = ""
    manages: bool = False  # the workspace


@dataclass(frozen=True, slots=True)
class Place:
    """A channel: its name, and who made it."""

    name: str = ""
    creator: str = ""


class People:
    """Knows people and channels by their ids."""

    def __init__(self, web: AsyncWebClient) -> None:
        self._web = web
        self._profiles = Memory(self._fetch_profile, Profile())
        self._places = Memory(self._fetch_place, Place())

    async def person(self, user_id: str, channel: str, patience: Patience) -> Person:
        """The author of a message. In a direct message they manage the conversation, which is theirs alone."""
        profile = await patience.spent_on(self._profiles.get(user_id), self._profiles.known(user_id))
        manages_channel = profile.manages or is_private(channel)
        return Person(user_id, profile.name or "someone", manages_channel, profile.manages)

    async def actor(self, user_id: str, channel: str, patience: Patience) -> Person:
        """Whoever gives a command: who made a channel manages it, too."""
        person, place = await asyncio.gather(
            self.person(user_id, channel, patience), patience.spent_on(self._place(channel), Place())
        )
        manages_channel = person.manages_channel or place.creator == user_id
        return Person(person.id, person.name, manages_channel, person.manages_workspace)

    async def names(self, users: Iterable[str], channels: Iterable[str], patience: Patience) -> dict[str, str]:
        """The names of people and channels by their ids; of those that are known in time."""
        ids = [*list(users)[:MOST_NAMES], *list(channels)[:MOST_NAMES]]
        told = await asyncio.gather(*(patience.spent_on(self._name(each), "") for each in ids))
        return dict(zip(ids, told, strict=True))

    async def close(self) -> None:
        """End the calls that still run."""
        await self._profiles.close()
        await self._places.close()

    async def _name(self, each: str) -> str:
        known = self._profiles if each.startswith(("U", "W")) else self._places
        return (await known.get(each)).name

    async def _place(self, channel: str) -> Place:
        return Place() if is_private(channel) else await self._places.get(channel)

    async def _fetch_profile(self, user_id: str) -> Profile:
        async with mapped():
            answer = await self._web.users_info(user=user_id)
        user = object_of(body_of(answer), "user")
        shown = object_of(user, "profile")
        name = text_of(shown, "display_name") or text_of(user, "real_name") or text_of(user, "name")
        manages = any(user.get(right) is True for right in ("is_admin", "is_owner", "is_primary_owner"))
        return Profile(decoded(name), manages)

    async def _fetch_place(self, channel: str) -> Place:
        async with mapped():
            answer = await self._web.conversations_info(channel=channel)
        told = object_of(body_of(answer), "channel")
        return Place(decoded(text_of(told, "name")), text_of(told, "creator"))
