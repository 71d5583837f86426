"""Tests the slash command without arguments: the commands, the settings, and the menu of models."""

import pytest

from bot.types.commands import help_text
from bot.types.messages import Choice, Event, IncomingCommand, Notice, Outcome, Refused
from tests.support.builders.slack_adapter import key_of, on_stage
from tests.support.builders.slack_interactions import saying, told
from tests.support.fakes.recording_core import RecordingCore

SETTINGS = Notice("- model: small (default)\n- temperature: 0.7 (set here)")


@pytest.mark.parametrize("typed", ["", "help", " HELP "])
async def test_alone_it_shows_the_commands_the_settings_and_the_models(typed: str) -> None:
    async with on_stage(core=saying(SETTINGS)) as stage:
        stage.core.offered = [Choice(f"m{n} " + "x" * 90, f"m{n}") for n in range(120)] + [Choice("long", "m" * 200)]
        use = await stage.ana.commands(stage.general, typed)
        shown = await told(stage, use)
        for line in help_text("/inhouse ").splitlines():
            assert line in shown
        assert "model: small (default)" in shown
        (menu,) = use.messages[0].buttons
        assert len(menu["options"]) == 100
        assert all(len(option["text"]["text"]) <= 75 for option in menu["options"])
        assert menu["options"][0]["text"]["text"].startswith("m0 xxx")


async def test_who_is_not_served_sees_no_more_than_that() -> None:
    async with on_stage(core=saying(Refused("I do not serve this place."))) as stage:
        use = await stage.ana.commands(stage.general)
        assert await told(stage, use) == "I do not serve this place."
        assert not use.messages[0].buttons


async def test_a_model_is_chosen_from_the_menu() -> None:
    def says(event: Event) -> Outcome:
        assert isinstance(event, IncomingCommand)
        return Notice("phi-4 answers here now.") if event.args else Notice("small answers here.")

    async with on_stage(core=RecordingCore(says=says)) as stage:
        stage.core.offered = [Choice("small · fits", "small"), Choice("phi-4 · tight", "phi-4")]
        use = await stage.ana.commands(stage.general, "model")
        assert await told(stage, use) == "small answers here."
        async with on_stage(stage.server, core=stage.core) as again:
            await stage.adapter.close()
            await stage.running
            choice = await again.ana.chooses(use.messages[0], "phi-4")
            assert await told(again, choice) == "phi-4 answers here now."
            command = await again.core.command(2)
            assert (command.key, command.name, command.args) == (key_of(stage.general), "model", {"name": "phi-4"})
            assert (command.actor.id, command.event_id != "") == (again.ana.id, True)
        assert use.messages[0].shown == "small answers here.", "what was chosen from stays"


async def test_without_models_there_is_no_menu() -> None:
    async with on_stage(core=saying(SETTINGS)) as stage:
        use = await stage.ana.commands(stage.general)
        await told(stage, use)
        assert not use.messages[0].buttons
