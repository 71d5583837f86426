"""Tests that one user cannot keep the others waiting, and that denied users are not served."""

from pathlib import Path

import pytest

from bot.types.messages import Accepted, Refused
from tests.support.builders.service import run_service
from tests.support.builders.storage_rows import rows

FLOOD = 500
OTHERS = ("ana", "ben", "cleo", "dan")


@pytest.mark.fault(42)
async def test_a_flood_of_500_messages_keeps_no_other_user_waiting(tmp_path: Path) -> None:
    async with run_service(tmp_path, per_user=3, queue_size=64) as setup:
        for number in range(4):  # the engine is busy, so new requests wait
            setup.platform.gates.hold(f"busy {number}/0")
            await setup.team.elsewhere(channel=f"busy-{number}").says(f"person-{number}", f"busy {number}")
            await setup.platform.gates.reached(f"busy {number}/0")
        outcomes = []
        for number in range(FLOOD):
            outcomes.append(await setup.team.elsewhere(channel=f"flood-{number}").says("eve", f"flood {number}"))
            if number % 125 == 100:
                who = OTHERS[number // 125]
                assert isinstance(await setup.team.elsewhere(channel=who).says(who, f"from {who}"), Accepted)
        assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 3
        refusals = {outcome.text for outcome in outcomes if isinstance(outcome, Refused)}
        assert len(refusals) == 1, "one clear sentence"
        assert rows(setup.settings.state_dir, "SELECT count(*) FROM requests") == [(4 + 3 + len(OTHERS),)]
        assert rows(setup.settings.state_dir, "SELECT count(*) FROM turns") == [(4 + 3 + len(OTHERS),)]
        await setup.platform.gates.open("busy 0/0")
        for who in OTHERS:
            await setup.team.elsewhere(channel=who).reply_to(f"from {who}")
        asked = setup.engine.questions()[4:]
        for turn, who in enumerate(OTHERS):
            before = asked[: asked.index(f"from {who}")]
            assert sum(question.startswith("flood") for question in before) <= turn + 1, "turn and turn about"
        for number in range(1, 4):
            await setup.platform.gates.open(f"busy {number}/0")


async def test_a_model_is_switched_by_those_only_who_may(tmp_path: Path) -> None:
    chosen = "SELECT value FROM settings WHERE name = 'model'"
    async with run_service(tmp_path, admins=frozenset({("scripted", "id-ana")})) as setup:
        assert isinstance(await setup.team.command("model", "large", who="eve"), Refused)
        assert rows(setup.settings.state_dir, chosen) == []
        assert not isinstance(await setup.team.command("model", "large", who="ana"), Refused)
        assert rows(setup.settings.state_dir, chosen) == [("large",)]


@pytest.mark.parametrize("name", ["smollm2", "acme/anything", "/etc", "../models/large", "https://evil.example/model"])
async def test_only_listed_models_can_be_chosen(tmp_path: Path, name: str) -> None:
    async with run_service(tmp_path) as setup:
        assert isinstance(await setup.team.command("model", name, who="root"), Refused)
        assert setup.engine.loads == ["small"]
