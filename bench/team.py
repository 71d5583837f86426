"""Simulates a team that talks with the bot on both platforms, and records the answers.

`Ledger` finds questions without an answer, with two, or with another's. People ask and wait for the answer; at random
they talk to each other, stop an answer, or delete a question.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Protocol

from bench.random_faults import RandomFaults
from tests.support.fakes.discord import Channel as DiscordChannel
from tests.support.fakes.discord import Message as DiscordMessage
from tests.support.fakes.discord import Person as DiscordPerson
from tests.support.fakes.slack_server import Channel as SlackChannel
from tests.support.fakes.slack_server import Message as SlackMessage
from tests.support.fakes.slack_server import Person as SlackPerson

LOOK_S = 0.5
PATIENCE_S = 600.0
"""Time limit for an answer: Slack repeats unacknowledged events after one minute and after five."""
GAVE_UP = "gave it up"
"""Part of the error of an answer during which the engine died twice."""
ENDED = {"Regenerate", "Continue"}
STOPS, DELETES, TALKS = 0.03, 0.02, 0.3
"""Shares of questions that are stopped or deleted, and of messages to others."""


class Question(Protocol):
    """A question on either platform."""

    def shown(self) -> list[tuple[str, set[str]]]:
        """The text and the buttons of each answer."""
        ...

    async def stop(self) -> None:
        """Presses Stop under its answer."""
        ...

    async def delete(self) -> None:
        """Deletes it."""
        ...


class Room(Protocol):
    """A channel of one platform with one user, who pauses for `pause_s` between questions."""

    name: str
    pause_s: float

    async def ask(self, text: str) -> Question:
        """Asks a question."""
        ...

    async def talk(self, text: str) -> None:
        """Posts a message that is not for the bot."""
        ...


@dataclass(frozen=True, slots=True)
class DiscordQuestion:
    """A Question on Discord."""

    person: DiscordPerson
    message: DiscordMessage

    def shown(self) -> list[tuple[str, set[str]]]:
        return [(each.content, labels(each)) for each in self._answers()]

    async def stop(self) -> None:
        for each in self._answers():
            if "Stop" in labels(each):
                await self.person.clicks(each, "Stop")

    async def delete(self) -> None:
        await self.person.deletes(self.message)

    def _answers(self) -> list[DiscordMessage]:
        return [each for each in self.message.channel.messages if each.reference is self.message]


@dataclass(slots=True)
class DiscordRoom:
    """A Room on Discord."""

    name: str
    channel: DiscordChannel
    person: DiscordPerson
    faults: RandomFaults
    pause_s: float

    async def ask(self, text: str) -> DiscordQuestion:
        message = await self.person.says(self.channel, text, mention=True)
        self.faults.recent_discord.append(message)
        return DiscordQuestion(self.person, message)

    async def talk(self, text: str) -> None:
        await self.person.says(self.channel, text)


@dataclass(frozen=True, slots=True)
class SlackQuestion:
    """A Question on Slack."""

    person: SlackPerson
    message: SlackMessage

    def shown(self) -> list[tuple[str, set[str]]]:
        return [(each.shown, set(each.labels)) for each in self._answers()]

    async def stop(self) -> None:
        for each in self._answers():
            if "Stop" in each.labels:
                await self.person.presses(each, "Stop")

    async def delete(self) -> None:
        await self.person.deletes(self.message)

    def _answers(self) -> list[SlackMessage]:
        return [each for each in self.message.channel.messages if each.thread_ts == self.message.ts]


@dataclass(slots=True)
class SlackRoom:
    """A Room on Slack."""

    name: str
    channel: SlackChannel
    person: SlackPerson
    faults: RandomFaults
    pause_s: float

    async def ask(self, text: str) -> SlackQuestion:
        message = await self.person.says(self.channel, text, mention=True)
        self.faults.recent_slack.append(message)
        return SlackQuestion(self.person, message)

    async def talk(self, text: str) -> None:
        await self.person.says(self.channel, text)


def labels(message: DiscordMessage) -> set[str]:
    """The labels of a message's buttons."""
    return {str(button.get("label")) for button in message.buttons}


@dataclass(slots=True)
class Asked:
    """A question. `withdrawn`: it was deleted and needs no answer. `seconds`: time to its finished answer."""

    question: Question
    canary: str
    stopped: bool = False
    withdrawn: bool = False
    seconds: float = 0.0

    @property
    def finished(self) -> list[str]:
        """The texts of the finished answers."""
        return [text for text, buttons in self.question.shown() if buttons & ENDED]

    def answers(self, text: str) -> bool:
        """Whether a text answers this question, or reports that there is no answer."""
        return self.canary in text or GAVE_UP in text


@dataclass(slots=True)
class Ledger:
    """All questions, and checks of their answers."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def due(self) -> list[Asked]:
        """Questions that must have an answer."""
        return [each for each in self.asked if not each.withdrawn]

    def lost(self) -> list[Asked]:
        """Questions without an answer."""
        return [each for each in self.due if not each.finished]

    def double(self) -> list[Asked]:
        """Questions with more than one answer message."""
        return [each for each in self.due if len(each.question.shown()) > 1]

    def crossed(self) -> list[Asked]:
        """Questions with another question's answer."""
        return [each for each in self.due if not each.stopped and not all(map(each.answers, each.finished))]


async def life(room: Room, ledger: Ledger, seed: int, until: float) -> None:
    """Simulates one user of a room, until `until` on the monotonic clock."""
    chance, number = random.Random(seed), 0
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(0.5, 1.5) * room.pause_s)
        number += 1
        canary = f"{room.name}-{number}-{chance.randrange(10**9)}"
        if chance.random() < TALKS:
            await room.talk(f"by the way, number {number}")
        question = await room.ask(f"please say {canary} once more, and some more words after it")
        asked = Asked(question, canary)
        ledger.asked.append(asked)
        await follow(asked, chance)


async def follow(asked: Asked, chance: random.Random) -> None:
    """Waits for the answer; at random stops it or deletes the question."""
    began, question = time.monotonic(), asked.question
    fate = chance.random()
    if fate < DELETES:
        await asyncio.sleep(chance.uniform(0, 1))
        asked.withdrawn = True
        await question.delete()
        return
    while not asked.finished and time.monotonic() - began < PATIENCE_S:
        await asyncio.sleep(LOOK_S)
        if fate < DELETES + STOPS and not asked.stopped and question.shown():
            asked.stopped = True
            await question.stop()
    asked.seconds = time.monotonic() - began
