"""Shared helpers for tests of commands, buttons and menus on Slack."""

from bot.types.messages import Outcome
from tests.support.builders.slack_adapter import SlackAdapterSetup
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack_server import Interaction


def saying(outcome: Outcome) -> RecordingCore:
    """A core that returns the same outcome for every event."""
    return RecordingCore(says=lambda event: outcome)


async def told(setup: SlackAdapterSetup, use: Interaction, number: int = 1) -> str:
    """Waits for the `number`th ephemeral message to the user of an interaction; its text."""
    await setup.server.until(lambda: len(use.messages) >= number)
    assert use.acked
    assert all(message.to is use.user for message in use.messages)
    return use.messages[number - 1].shown
