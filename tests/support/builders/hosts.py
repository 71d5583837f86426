"""Builds two services in one process that serve on one PostgreSQL database and one scripted platform.

Each has an engine of its own, whose gates are those of the platform.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.builders.databases import CHOSEN
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team


@asynccontextmanager
async def run_host(
    root: Path, name: str, platform: ScriptedPlatform, *, slots: int = 1, ready: bool = True, **settings: Any
) -> AsyncIterator[ServiceSetup]:
    """Runs the host `name`, which writes `slots` answers at once. Hosts with the same `root` share a database.

    ready: wait until it is connected and a model is loaded.
    """
    settings = {"database_url": CHOSEN.url(root), "drain": 5} | settings
    engine = ScriptedEngine(platform.gates.passing, max_running=slots)
    async with run_service(root / name, platform, engine=engine, ready=ready, **settings) as setup:
        yield setup


@dataclass(slots=True)
class TwoHosts:
    """Two hosts. Events go to the ones whose adapters hear."""

    first: ServiceSetup
    second: ServiceSetup

    @property
    def platform(self) -> ScriptedPlatform:
        """The platform of both."""
        return self.first.platform

    @property
    def team(self) -> Team:
        """The users of the platform."""
        return self.first.team

    def tells(self, host: ServiceSetup) -> Team:
        """The users, whose events go to one host only from now on."""
        for each in (self.first, self.second):
            each.adapter.hears = each is host
        return self.team

    async def acquainted(self, slots: int) -> None:
        """Waits until each host knows that both together write so many answers at once."""

        def all_know() -> bool:
            hosts = (self.first.service, self.second.service)
            return all(each.web is not None and each.web.live_state.slots() == slots for each in hosts)

        await self.platform.until(all_know, "the hosts know each other")

    def answered(self) -> dict[str, int]:
        """How many requests for each question both engines got."""
        asked = [*self.first.engine.questions(), *self.second.engine.questions()]
        return {question: asked.count(question) for question in asked}

    def posts(self, question: str) -> list[str]:
        """The last text of each message that answers a question."""
        mine = self.team.asked[question]
        return [post.text for post in self.platform.posted if post.reply.question_id == mine]


@asynccontextmanager
async def run_two_hosts(root: Path, *, slots: tuple[int, int] = (1, 1), **settings: Any) -> AsyncIterator[TwoHosts]:
    """Runs two hosts that know each other."""
    async with (
        ScriptedPlatform() as platform,
        run_host(root, "first", platform, slots=slots[0], **settings) as first,
        run_host(root, "second", platform, slots=slots[1], **settings) as second,
    ):
        hosts = TwoHosts(first, second)
        await hosts.acquainted(sum(slots))
        yield hosts


async def ask_and_hold(hosts: TwoHosts, *questions: str) -> None:
    """Asks questions of different people in different channels, and holds each answer before its second word."""
    for number, question in enumerate(questions):
        hosts.platform.gates.hold(f"{question}/1")
        await channel_of(hosts.team, question).says(f"person-{question}-{number}", question)
    for question in questions:
        await hosts.platform.gates.reached(f"{question}/1")


def channel_of(team: Team, name: str) -> Team:
    """The users in a channel of that name."""
    return team.elsewhere(channel=f"channel-{name}")
