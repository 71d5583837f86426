"""Exports the parts of the fake Slack that tests use."""

from tests.support.fakes.slack.people import Interaction, Person
from tests.support.fakes.slack.server import APP_TOKEN, BOT_TOKEN, FakeSlack
from tests.support.fakes.slack.state import CHANNEL, GROUP, IM, Channel, Message, User

__all__ = [
    "APP_TOKEN",
    "BOT_TOKEN",
    "CHANNEL",
    "GROUP",
    "IM",
    "Channel",
    "FakeSlack",
    "Interaction",
    "Message",
    "Person",
    "User",
]
