"""Tests slash commands, menus and buttons: their registration and their use."""

from collections.abc import Callable

import pytest

from bot.types.commands import COMMANDS
from bot.types.errors import StorageError
from bot.types.messages import (
    Accepted,
    ActionKind,
    Attachment,
    Choice,
    Event,
    IncomingAction,
    IncomingCommand,
    MessageDeleted,
    Notice,
    Outcome,
    Person,
    Refused,
)
from tests.support.builders.discord_adapter import REQUEST, key_of, on_stage, reply_to
from tests.support.fakes.discord import Can
from tests.support.fakes.recording_core import RecordingCore

CALLBACK = "/interactions/{interaction_id}/{token}/callback"


def saying(outcome: Outcome) -> Callable[[Event], Outcome]:
    return lambda event: outcome


async def test_every_command_is_registered_with_its_description_range_and_choices() -> None:
    async with on_stage() as stage:
        shown = {each["name"]: each for each in stage.server.commands}
        assert {command.name for command in COMMANDS} | {"Answer this", "Forget this"} == set(shown)
        for command in COMMANDS:
            assert shown[command.name]["description"] == command.description
            (option,) = shown[command.name]["options"] or [None]
            assert (option is None) == (command.option is None)
            if command.option and option:
                assert (option["name"], option["description"]) == (command.option.name, command.option.description)
                assert option.get("required", False) == command.option.required
                assert (option.get("min_value"), option.get("max_value")) == (
                    command.option.minimum,
                    command.option.maximum,
                )
                assert tuple(each["value"] for each in option.get("choices", ())) == command.option.choices
                assert option.get("autocomplete", False) == command.option.autocomplete


async def test_a_command_is_acknowledged_and_answered_for_its_giver_only() -> None:
    async with on_stage(core=RecordingCore(says=saying(Notice("It is 0.2 now, @everyone.")))) as stage:
        boss = stage.server.user("boss", can=Can.MANAGE_CHANNELS | Can.MANAGE_GUILD)
        answer = await boss.slash("temperature", channel=stage.general, value=0.2)
        assert await answer.answered() == "It is 0.2 now, @everyone."
        assert answer.ephemeral
        assert not stage.general.history
        assert not stage.server.pings
        command = await stage.core.command()
        assert (command.key, command.event_id, command.args) == (key_of(stage.general), answer.id, {"value": "0.2"})
        assert (command.actor.manages_channel, command.actor.manages_workspace) == (True, True)
        await stage.ana.slash("max_tokens", channel=stage.general, value=20)
        assert (await stage.core.command(2)).args == {"value": "20"}
        await stage.ana.slash("settings", channel=stage.server.dm(stage.ana))
        last = await stage.core.command(3)
        assert (last.key, last.args) == (key_of(stage.server.dm(stage.ana)), {})
        assert last.actor == Person(stage.ana.id, "ana", manages_channel=True)
        thread = await stage.ana.opens_thread(stage.general, "plans")
        await stage.ana.slash("forget", channel=thread, what="mine")
        last = await stage.core.command(4)
        assert (last.key, last.args) == (key_of(thread), {"what": "mine"})


async def test_a_command_is_acknowledged_before_the_core_has_dealt_with_it() -> None:
    async with on_stage() as stage:
        stage.core.says = saying(Notice("done"))
        stage.core.open.clear()
        answer = await stage.ana.slash("status", channel=stage.general)
        assert answer.deferred
        stage.core.open.set()
        assert await answer.answered() == "done"


async def test_ask_is_acknowledged_privately() -> None:
    async with on_stage() as stage:
        answer = await stage.ana.slash("ask", channel=stage.general, prompt="why?")
        assert await answer.answered() == "It comes as a message here."
        assert answer.ephemeral
        assert (await stage.core.command()).args == {"prompt": "why?"}


async def test_long_notices_come_in_parts_with_their_file() -> None:
    text = "\n\n".join(["a paragraph " * 40] * 8)
    attachment = Attachment("conversation.md", "# all")
    async with on_stage(core=RecordingCore(says=saying(Notice(text, attachment=attachment)))) as stage:
        answer = await stage.ana.slash("export", channel=stage.general)
        await stage.server.until(lambda: len(answer.messages) == 2)
        assert " ".join(each.content for each in answer.messages).split() == text.split()
        assert [each.files for each in answer.messages] == [{"conversation.md": b"# all"}, {}]


async def test_what_cannot_be_stored_is_told() -> None:
    def failing(event: Event) -> Outcome:
        raise StorageError("The disk is full.")

    async with on_stage(core=RecordingCore(says=failing)) as stage:
        answer = await stage.ana.slash("status", channel=stage.general)
        assert await answer.answered() == "The disk is full."


async def test_models_are_offered_while_they_are_typed() -> None:
    async with on_stage() as stage:
        stage.core.offered = [Choice(f"m{n} " + "x" * 120, f"m{n}") for n in range(30)] + [Choice("long", "m" * 101)]
        choices = await stage.ana.autocompletes("model", "name", "m", channel=stage.general)
        assert len(choices) == 25
        assert choices[0]["value"] == "m0"
        assert len(choices[0]["name"]) == 100
        assert await stage.ana.autocompletes("model", "name", "m29", channel=stage.general) == [
            {"name": ("m29 " + "x" * 120)[:100], "value": "m29"}
        ]


@pytest.mark.parametrize("kind", [ActionKind.STOP, ActionKind.REGENERATE, ActionKind.GOOD])
async def test_a_button_works_after_a_restart(kind: ActionKind) -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", buttons=(kind,)))
        async with on_stage(stage.server) as again:
            await stage.adapter.close()
            await stage.running
            again.core.says = saying(Refused("Only ana and channel managers can do that here."))
            click = await again.ben.clicks(stage.general.messages[0], f"ih:{kind}:{'a' * 20}:{REQUEST}")
            assert await click.answered() == "Only ana and channel managers can do that here."
            assert click.ephemeral
            (action,) = await again.core.got(IncomingAction)
            actor = Person(again.ben.id, "ben")
            assert action == IncomingAction(key_of(stage.general), click.id, actor, "a" * 20, kind)
            assert stage.general.messages[0].content == "hi"


async def test_a_button_whose_work_shows_elsewhere_says_nothing() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", buttons=(ActionKind.REGENERATE,)))
        click = await stage.ana.clicks(stage.general.messages[0], "Regenerate")
        await stage.core.got(IncomingAction)
        assert not click.failed
        assert click.messages == []


async def test_anybodys_message_can_be_answered_by_the_menu() -> None:
    async with on_stage() as stage:
        said = await stage.ben.says(stage.general, "why is the sky blue?", files={"sky.txt": b"blue"})
        menu = await stage.ana.uses("Answer this", on=said)
        assert await menu.answered() == "It comes as a message here."
        event = await stage.core.message(2)
        assert (event.message_id, event.text, event.addressed) == (said.id, "why is the sky blue?", True)
        assert event.author == Person(stage.ana.id, "ben"), "the asker decides about it, the history shows who said it"
        assert event.attachments == (Attachment("sky.txt", "blue"),)
        stage.core.says = saying(Accepted())
        assert "answered that already" in await (await stage.ana.uses("Answer this", on=said)).answered()


async def test_ones_own_message_can_be_forgotten_by_the_menu_and_moderators_can_have_any() -> None:
    async with on_stage() as stage:
        mod = stage.server.user("mod", can=Can.MANAGE_MESSAGES)
        said = await stage.ana.says(stage.general, "a secret", mention=True)
        await stage.adapter.post(reply_to(said, "I will keep it"))
        (answer,) = stage.general.messages
        for target in (said, answer):
            assert "Only its author" in await (await stage.ben.uses("Forget this", on=target)).answered()
        for who in (stage.ana, mod):
            for target in (said, answer):
                assert "is deleted" in await (await who.uses("Forget this", on=target)).answered()
        gone = await stage.core.got(MessageDeleted, 4)
        assert set(gone) == {MessageDeleted(key_of(stage.general), said.id)}


async def test_an_acknowledgement_that_comes_too_late_does_nothing() -> None:
    async with on_stage() as stage:
        stage.server.faults.answer("POST", CALLBACK, status=404, code=10062)
        stage.ana.patience = 0.3
        assert (await stage.ana.slash("reset", channel=stage.general)).failed
        await stage.ana.slash("status", channel=stage.general)
        assert [event.name for event in await stage.core.got(IncomingCommand)] == ["status"]


async def test_an_acknowledgement_whose_answer_was_lost_counts() -> None:
    async with on_stage() as stage:
        stage.core.says = saying(Notice("done"))
        stage.server.faults.answer("POST", CALLBACK, status=502, applied=True)
        answer = await stage.ana.slash("status", channel=stage.general)
        assert await answer.answered() == "done"
        assert len(await stage.core.got(IncomingCommand)) == 1
