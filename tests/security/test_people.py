"""Tests that one user cannot keep the others waiting, and that denied users are not served."""

from pathlib import Path

import pytest

from bot.types.messages import Accepted, Refused
from tests.support.builders.service import open_house
from tests.support.builders.storage_rows import rows

FLOOD = 500
OTHERS = ("ana", "ben", "cleo", "dan")


@pytest.mark.fault(42)
async def test_a_flood_of_500_messages_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    async with open_house(tmp_path, per_user=3, queue_size=64) as house:
        for number in range(4):  # the engine is busy, so new requests wait
            house.world.gates.hold(f"busy {number}/0")
            await house.team.elsewhere(channel=f"busy-{number}").says(f"person-{number}", f"busy {number}")
            await house.world.gates.reached(f"busy {number}/0")
        outcomes = []
        for number in range(FLOOD):
            outcomes.append(await house.team.elsewhere(channel=f"flood-{number}").says("eve", f"flood {number}"))
            if number % 125 == 100:
                who = OTHERS[number // 125]
                assert isinstance(await house.team.elsewhere(channel=who).says(who, f"from {who}"), Accepted)
        assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 3
        refusals = {outcome.text for outcome in outcomes if isinstance(outcome, Refused)}
        assert len(refusals) == 1, "one clear sentence"
        assert rows(house.settings.state_dir, "SELECT count(*) FROM inbox") == [(4 + 3 + len(OTHERS),)]
        await house.world.gates.open("busy 0/0")
        for who in OTHERS:
            await house.team.elsewhere(channel=who).reply_to(f"from {who}")
        asked = house.engine.questions()[4:]
        for turn, who in enumerate(OTHERS):
            before = asked[: asked.index(f"from {who}")]
            assert sum(question.startswith("flood") for question in before) <= turn + 1, "turn and turn about"
        for number in range(1, 4):
            await house.world.gates.open(f"busy {number}/0")


async def test_a_model_is_switched_by_those_only_who_may(tmp_path: Path) -> None:
    chosen = "SELECT value FROM settings WHERE name = 'model'"
    async with open_house(tmp_path, admins=frozenset({("scripted", "id-ana")})) as house:
        assert isinstance(await house.team.command("model", "large", who="eve"), Refused)
        assert rows(house.settings.state_dir, chosen) == []
        assert not isinstance(await house.team.command("model", "large", who="ana"), Refused)
        assert rows(house.settings.state_dir, chosen) == [("large",)]


@pytest.mark.parametrize("name", ["smollm2", "acme/anything", "/etc", "../models/large", "https://evil.example/model"])
async def test_only_listed_models_can_be_chosen(tmp_path: Path, name: str) -> None:
    async with open_house(tmp_path) as house:
        assert isinstance(await house.team.command("model", name, who="root"), Refused)
        assert house.engine.loads == ["small"]
