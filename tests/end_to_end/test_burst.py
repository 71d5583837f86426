"""Tests hundreds of questions in one second with the real service on both platforms: each is stored in time, and
once."""

import time
from pathlib import Path

import pytest

from bot.core.core import ServiceCore
from bot.types.messages import Event, IncomingMessage, Outcome
from tests.support.builders.platform_services import Platform
from tests.support.builders.storage_rows import rows

pytest_plugins = ["tests.support.fixtures.both_platforms"]

QUESTIONS, CHANNELS = 320, 60
IN_TIME_S = 3.0


@pytest.mark.fault(50)
@pytest.mark.timeout(180)
async def test_hundreds_of_questions_at_once_are_each_stored_in_time(
    tmp_path: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waits are measured in this process's own time, so that a busy machine does not fail the test."""
    stored: dict[str, float] = {}
    handle = ServiceCore.handle

    async def noted(core: ServiceCore, event: Event) -> Outcome:
        outcome = await handle(core, event)
        if isinstance(event, IncomingMessage):
            stored.setdefault(event.message_id, time.process_time())
        return outcome

    monkeypatch.setattr(ServiceCore, "handle", noted)
    platform.takes_all_calls()
    async with platform.open(tmp_path, queue_size=1000, per_user=1000) as setup:
        channels = [platform.channel(f"channel-{number}") for number in range(CHANNELS)]
        people = [platform.server.user(f"person-{number}") for number in range(CHANNELS)]
        asked: dict[str, float] = {}
        for number in range(QUESTIONS):
            who, where = people[number % CHANNELS], channels[number % CHANNELS]
            setup.gates.hold(f"question {number}/0")
            said = await who.says(where, f"question {number}", mention=True)
            asked[said.id if platform.name == "discord" else said.ts] = time.process_time()
        await setup.server.until(lambda: asked.keys() <= stored.keys(), 120)
        waits = sorted(stored[name] - at for name, at in asked.items())
        assert waits[-1] < IN_TIME_S
        for table, column in (("inbox", "identity"), ("turns", "message_id"), ("requests", "message_id")):
            found = rows(tmp_path / "state", f"SELECT {column} FROM {table}")
            assert sorted(str(row[0]) for row in found) == sorted(asked)
