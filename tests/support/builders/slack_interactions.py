"""What tests of commands, buttons and menus on Slack share."""

from bot.types.messages import Outcome
from tests.support.builders.slack_adapter import Stage
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack_server import Interaction


def saying(outcome: Outcome) -> RecordingCore:
    """A core that says the same of every event."""
    return RecordingCore(says=lambda event: outcome)


async def told(stage: Stage, use: Interaction, number: int = 1) -> str:
    """The `number`th thing that was said to somebody, for their eyes only."""
    await stage.server.until(lambda: len(use.messages) >= number)
    assert use.acked
    assert all(message.to is use.user for message in use.messages)
    return use.messages[number - 1].shown
