"""Tests the answer of a model that thinks over the real adapters, on both platforms, as people see it."""

from pathlib import Path

from tests.end_to_end.test_rights import presses
from tests.support.builders.platform_services import Platform

pytest_plugins = ["tests.support.fixtures.both_platforms"]


async def test_a_thinking_model_is_seen_to_think_and_shows_its_thoughts_when_asked(
    tmp_path: Path, platform: Platform
) -> None:
    """The transcript: thinking, the answer without the thoughts, and the thoughts for who presses the button."""
    platform.takes_all_calls()
    async with platform.open(tmp_path) as setup:
        setup.engine.answers("hello", "Good morning.", reasoning="They greet me; I greet back.")
        setup.gates.hold("hello/thought")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        if platform.name == "discord":
            await platform.server.until(lambda: [each.content[:8] for each in setup.general.messages] == ["thinking"])
        else:
            await platform.server.until(
                lambda: any(each.text.startswith("thinking") for each in platform.server.extras.statuses)
            )
        await setup.gates.open("hello/thought")
        assert await setup.answer_to(question) == "Good morning."
        found = setup.answers_to(question)[0]
        answer = found[0] if platform.name == "discord" else found
        told = await presses(platform, setup.ben, answer, "Thoughts")
        assert told == "What the model thought:\n\nThey greet me; I greet back."
        shown = [each.content if platform.name == "discord" else each.shown for each in setup.general.messages]
        assert "greet" not in str(shown)


async def test_thoughts_that_were_shown_as_text_are_taken_back(tmp_path: Path, platform: Platform) -> None:
    """A server whose template opens the thoughts sends them as text until their end."""
    platform.takes_all_calls()
    thoughts = "They greet me; I greet back. " * 20
    async with platform.open(tmp_path) as setup:
        setup.engine.answers("hello", "Good morning.", retracted=thoughts)
        setup.gates.hold("hello/retracted")
        question = await setup.ana.says(setup.general, "hello", mention=True)

        def shown() -> list[str]:
            return [each.content if platform.name == "discord" else each.shown for each in setup.general.messages]

        await platform.server.until(lambda: any("I greet back" in text for text in shown()))
        await setup.gates.open("hello/retracted")
        assert await setup.answer_to(question) == "Good morning."
        assert "greet" not in str(shown())
        found = setup.answers_to(question)
        answer = found[0][0] if platform.name == "discord" else found[0]
        assert "I greet back" in await presses(platform, setup.ben, answer, "Thoughts")
