"""The service as a whole: a message in, an answer on the platform, and the promises in between."""

from pathlib import Path

from tests.service_harness import open_house


async def test_a_question_is_answered_under_it(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        answer = await house.team.asks("ana", "hello there")
        assert answer.text == "You said: hello there"
        assert len(house.world.posted) == 1
