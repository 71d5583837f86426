"""Tests slash commands, menus and buttons: their registration and their use."""

from collections.abc import Callable

import pytest

from adapters.discord.interactions.slash_commands import NOT_STORED_YET
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
    IncomingForget,
    Notice,
    Outcome,
    Person,
    Refused,
)
from tests.support.builders.discord_adapter import REQUEST, key_of, reply_to, run_discord_adapter
from tests.support.fakes.discord import Can
from tests.support.fakes.recording_core import RecordingCore

CALLBACK = "/interactions/{interaction_id}/{token}/callback"


def saying(outcome: Outcome) -> Callable[[Event], Outcome]:
    return lambda event: outcome


async def test_every_command_is_registered_with_its_description_range_and_choices() -> None:
    async with run_discord_adapter() as setup:
        shown = {each["name"]: each for each in setup.server.commands}
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
    async with run_discord_adapter(core=RecordingCore(says=saying(Notice("It is 0.2 now, @everyone.")))) as setup:
        boss = setup.server.user("boss", can=Can.MANAGE_CHANNELS | Can.MANAGE_GUILD)
        answer = await boss.slash("temperature", channel=setup.general, value=0.2)
        assert await answer.answered() == "It is 0.2 now, @everyone."
        assert answer.ephemeral
        assert not setup.general.history
        assert not setup.server.pings
        command = await setup.core.command()
        assert (command.key, command.event_id, command.args) == (key_of(setup.general), answer.id, {"value": "0.2"})
        assert (command.actor.manages_channel, command.actor.manages_workspace) == (True, True)
        await setup.ana.slash("max_tokens", channel=setup.general, value=20)
        assert (await setup.core.command(2)).args == {"value": "20"}
        await setup.ana.slash("settings", channel=setup.server.dm(setup.ana))
        last = await setup.core.command(3)
        assert (last.key, last.args) == (key_of(setup.server.dm(setup.ana)), {})
        assert last.actor == Person(setup.ana.id, "ana", manages_channel=True)
        thread = await setup.ana.opens_thread(setup.general, "plans")
        await setup.ana.slash("forget", channel=thread, what="mine")
        last = await setup.core.command(4)
        assert (last.key, last.args) == (key_of(thread), {"what": "mine"})


async def test_a_command_is_acknowledged_before_the_core_has_dealt_with_it() -> None:
    async with run_discord_adapter() as setup:
        setup.core.says = saying(Notice("done"))
        setup.core.open.clear()
        answer = await setup.ana.slash("status", channel=setup.general)
        assert answer.deferred
        setup.core.open.set()
        assert await answer.answered() == "done"


async def test_ask_is_acknowledged_privately() -> None:
    async with run_discord_adapter() as setup:
        answer = await setup.ana.slash("ask", channel=setup.general, prompt="why?")
        assert await answer.answered() == "It comes as a message here."
        assert answer.ephemeral
        assert (await setup.core.command()).args == {"prompt": "why?"}


@pytest.mark.parametrize("way", ["ask", "regenerate", "continue", "menu", "button"])
async def test_what_asks_for_an_answer_is_stored_before_it_is_acknowledged(way: str) -> None:
    async with run_discord_adapter() as setup:
        said = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.core.message()
        await setup.adapter.post(reply_to(said, "hi", buttons=(ActionKind.REGENERATE,)))
        acknowledged: list[int] = []

        def says(event: Event) -> Outcome:
            acknowledged.append(setup.server.log.count("POST", CALLBACK))
            return Accepted("request")

        setup.core.says = says
        if way == "menu":
            await setup.ana.uses("Answer this", on=said)
        elif way == "button":
            await setup.ana.clicks(setup.general.messages[0], "Regenerate")
        else:
            await setup.ana.slash(way, channel=setup.general, **({"prompt": "why?"} if way == "ask" else {}))
        assert acknowledged == [0]
        assert setup.server.log.count("POST", CALLBACK) == 1


async def test_what_cannot_be_stored_in_time_is_acknowledged_with_a_sentence() -> None:
    async with run_discord_adapter() as setup:
        setup.core.open.clear()
        answer = await setup.ana.slash("ask", channel=setup.general, prompt="why?")
        assert (answer.text, answer.deferred, answer.ephemeral) == (NOT_STORED_YET, False, True)
        setup.core.open.set()
        await answer.until(lambda: answer.text == "It comes as a message here.")
        assert answer.ephemeral


async def test_a_question_that_is_stored_although_discord_refuses_the_acknowledgement_is_answered() -> None:
    async with run_discord_adapter() as setup:
        setup.server.faults.answer("POST", CALLBACK, status=404, code=10062)
        setup.ana.patience = 0.3
        assert (await setup.ana.slash("ask", channel=setup.general, prompt="why?")).failed
        assert (await setup.core.command()).name == "ask"


async def test_long_notices_come_in_parts_with_their_file() -> None:
    text = "\n\n".join(["a paragraph " * 40] * 8)
    attachment = Attachment("conversation.md", "# all")
    async with run_discord_adapter(core=RecordingCore(says=saying(Notice(text, attachment=attachment)))) as setup:
        answer = await setup.ana.slash("export", channel=setup.general)
        await setup.server.until(lambda: len(answer.messages) == 2)
        assert " ".join(each.content for each in answer.messages).split() == text.split()
        assert [each.files for each in answer.messages] == [{"conversation.md": b"# all"}, {}]


async def test_what_cannot_be_stored_is_reported() -> None:
    def failing(event: Event) -> Outcome:
        raise StorageError("The disk is full.")

    async with run_discord_adapter(core=RecordingCore(says=failing)) as setup:
        answer = await setup.ana.slash("status", channel=setup.general)
        assert await answer.answered() == "The disk is full."


async def test_models_are_offered_while_they_are_typed() -> None:
    async with run_discord_adapter() as setup:
        setup.core.offered = [Choice(f"m{n} " + "x" * 120, f"m{n}") for n in range(30)] + [Choice("long", "m" * 101)]
        choices = await setup.ana.autocompletes("model", "name", "m", channel=setup.general)
        assert len(choices) == 25
        assert choices[0]["value"] == "m0"
        assert len(choices[0]["name"]) == 100
        assert await setup.ana.autocompletes("model", "name", "m29", channel=setup.general) == [
            {"name": ("m29 " + "x" * 120)[:100], "value": "m29"}
        ]


@pytest.mark.parametrize("kind", [ActionKind.STOP, ActionKind.REGENERATE, ActionKind.GOOD])
async def test_a_button_works_after_a_restart(kind: ActionKind) -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", buttons=(kind,)))
        async with run_discord_adapter(setup.server) as again:
            await setup.adapter.close()
            await setup.running
            again.core.says = saying(Refused("Only ana and channel managers can do that here."))
            click = await again.ben.clicks(setup.general.messages[0], f"ih:{kind}:{'a' * 20}:{REQUEST}")
            assert await click.answered() == "Only ana and channel managers can do that here."
            assert click.ephemeral
            (action,) = await again.core.got(IncomingAction)
            actor = Person(again.ben.id, "ben")
            assert action == IncomingAction(key_of(setup.general), click.id, actor, "a" * 20, kind)
            assert setup.general.messages[0].content == "hi"


async def test_a_button_whose_work_shows_elsewhere_says_nothing() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", buttons=(ActionKind.REGENERATE,)))
        click = await setup.ana.clicks(setup.general.messages[0], "Regenerate")
        await setup.core.got(IncomingAction)
        assert not click.failed
        assert click.messages == []


async def test_any_users_message_can_be_answered_by_the_menu() -> None:
    async with run_discord_adapter() as setup:
        said = await setup.ben.says(setup.general, "why is the sky blue?", files={"sky.txt": b"blue"})
        menu = await setup.ana.uses("Answer this", on=said)
        assert await menu.answered() == "It comes as a message here."
        event = await setup.core.message(2)
        assert (event.message_id, event.text, event.addressed) == (said.id, "why is the sky blue?", True)
        assert (event.author, event.asker) == (Person(setup.ben.id, "ben"), Person(setup.ana.id, "ana"))
        assert event.attachments == (Attachment("sky.txt", "blue"),)
        setup.core.says = saying(Accepted())
        assert "answered that already" in await (await setup.ana.uses("Answer this", on=said)).answered()


async def test_the_menu_asks_the_core_to_forget_a_message_or_an_answer() -> None:
    async with run_discord_adapter() as setup:
        mod = setup.server.user("mod", can=Can.MANAGE_MESSAGES)
        said = await setup.ana.says(setup.general, "a secret", mention=True)
        await setup.adapter.post(reply_to(said, "I will keep it"))
        (answer,) = setup.general.messages
        setup.core.says = saying(Notice("done"))
        for target in (said, answer):
            assert await (await mod.uses("Forget this", on=target)).answered() == "done"
        asked = await setup.core.got(IncomingForget, 2)
        assert [(each.message_id, each.author_id) for each in asked] == [
            (said.id, setup.ana.id),
            (answer.id, setup.server.bot.id),
        ]
        assert all(each.actor.id == mod.id and each.actor.manages_channel for each in asked)
        assert all(each.key == key_of(setup.general) for each in asked)


async def test_an_acknowledgement_that_comes_too_late_does_nothing() -> None:
    async with run_discord_adapter() as setup:
        setup.server.faults.answer("POST", CALLBACK, status=404, code=10062)
        setup.ana.patience = 0.3
        assert (await setup.ana.slash("reset", channel=setup.general)).failed
        await setup.ana.slash("status", channel=setup.general)
        assert [event.name for event in await setup.core.got(IncomingCommand)] == ["status"]


async def test_an_acknowledgement_whose_answer_was_lost_counts() -> None:
    async with run_discord_adapter() as setup:
        setup.core.says = saying(Notice("done"))
        setup.server.faults.answer("POST", CALLBACK, status=502, applied=True)
        answer = await setup.ana.slash("status", channel=setup.general)
        assert await answer.answered() == "done"
        assert len(await setup.core.got(IncomingCommand)) == 1
