"""Tests the slash command: parsing, acknowledgement, help, and the response to its user."""

import pytest

from adapters.slack.interactions import ephemeral_replies
from bot.types.commands import COMMANDS, help_text
from bot.types.errors import StorageError
from bot.types.messages import Accepted, Attachment, Choice, Event, IncomingCommand, Notice, Outcome, Refused
from tests.support.builders.slack_adapter import key_of, run_slack_adapter
from tests.support.builders.slack_interactions import saying, told
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack_server import GROUP

SETTINGS = Notice("- model: small (default)\n- temperature: 0.7 (set here)")


async def test_every_command_comes_with_its_argument_as_typed() -> None:
    async with run_slack_adapter() as setup:
        typed = {command.name: "  text " if command.option else "" for command in COMMANDS[:-1]} | {"ask": " some text"}
        uses = [await setup.ana.commands(setup.general, f"{name}{text}") for name, text in typed.items()]
        commands = await setup.core.got(IncomingCommand, len(uses))
        assert len({event.event_id for event in commands}) == len(uses)
        by_name = {event.name: event for event in commands}
        for command in COMMANDS[:-1]:
            event = by_name[command.name]
            text = typed[command.name].strip()
            assert event.args == ({command.option.name: text} if command.option else {})
            assert event.key == key_of(setup.general)
            assert event.actor.id == setup.ana.id
        await setup.server.until(lambda: all(use.acked for use in uses))


@pytest.mark.parametrize("typed", ["top-p 0.3", "top_p 0.3", "  TOP-P   0.3 "])
async def test_dashes_capitals_and_spaces_do_not_matter(typed: str) -> None:
    async with run_slack_adapter() as setup:
        await setup.ana.commands(setup.general, typed)
        command = await setup.core.command()
        assert (command.name, command.args) == ("top_p", {"value": "0.3"})


async def test_the_answer_is_ephemeral_and_pings_no_user() -> None:
    async with run_slack_adapter(core=saying(Notice("It is **0.2** <!here> & @everyone now, <@U1>."))) as setup:
        boss = setup.server.user("boss", admin=True)
        use = await boss.commands(setup.general, "temperature 0.2")
        assert await told(setup, use) == "It is *0.2* <!here> & @everyone now, <@U1>."
        assert not setup.general.messages
        assert not setup.server.pings
        actor = (await setup.core.command()).actor
        assert (actor.name, actor.manages_channel, actor.manages_workspace) == ("boss", True, True)
        await setup.ana.commands(setup.server.dm(setup.ana), "system be < brief &amp; &lt;b&gt;")
        second = await setup.core.command(2)
        assert (second.key, second.args) == (key_of(setup.server.dm(setup.ana)), {"prompt": "be < brief & <b>"})
        assert (second.actor.manages_channel, second.actor.manages_workspace) == (True, False)


async def test_another_name_for_the_command() -> None:
    async with run_slack_adapter(slack_command="/ask-us") as setup:
        await setup.ana.commands(setup.general, "stop")
        await setup.ana.commands(setup.general, "status", name="/ask-us")
        assert (await setup.core.command()).name == "status"
        words = await setup.ana.commands(setup.general, name="/ask-us")
        assert "`/ask-us help`" in await told(setup, await setup.ana.commands(setup.general, "sing", name="/ask-us"))
        await setup.server.until(lambda: words.messages)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            "modle phi-4",
            "There is no command `modle`; did you mean model? To ask me this, send `/inhouse ask modle phi-4`.",
        ),
        (
            "hello there",
            "There is no command `hello`; did you mean help? To ask me this, send `/inhouse ask hello there`.",
        ),
        (
            "why is it so?",
            "`/inhouse why` does not take what follows it. To ask me this, send `/inhouse ask why is it so?`.",
        ),
        ("`` @x", "There is no command `''`. To ask me this, send `/inhouse ask '' @x`."),
    ],
)
async def test_what_is_no_command_is_told_what_would_be(typed: str, sentence: str) -> None:
    async with run_slack_adapter() as setup:
        use = await setup.ana.commands(setup.general, typed)
        assert await told(setup, use) == f"{sentence} `/inhouse help` shows what else there is."
        assert not setup.core.events
        for _ in range(2):
            await told(setup, await setup.ana.presses(use.messages[0], "Ask this"))
        asked = await setup.core.got(IncomingCommand, 2)
        assert {(event.name, event.args["prompt"], event.key) for event in asked} == {
            ("ask", typed, key_of(setup.general))
        }
        assert len({event.event_id for event in asked}) == 1, "the core drops the second one"


async def test_a_text_that_is_too_long_for_a_button_is_only_named() -> None:
    async with run_slack_adapter() as setup:
        use = await setup.ana.commands(setup.general, "x" * 2000)
        assert "To ask me this, send `/inhouse ask xxx" in await told(setup, use)
        assert not use.messages[0].buttons


async def test_a_command_is_acknowledged_when_it_is_stored_and_not_before() -> None:
    async with run_slack_adapter(core=saying(Notice("done"))) as setup:
        setup.core.open.clear()
        use = await setup.ana.commands(setup.general, "reset")
        await setup.server.until(lambda: "users.info" in [call.method for call in setup.server.calls])
        assert not use.acked
        setup.core.open.set()
        await told(setup, use)


async def test_one_that_takes_long_is_acknowledged_in_time_but_a_question_never_before_it_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ephemeral_replies, "ACK_S", 0.05)
    async with run_slack_adapter() as setup:
        setup.core.open.clear()
        question = await setup.ana.commands(setup.general, "ask why?")
        slow = await setup.ana.commands(setup.general, "status")
        await setup.server.until(lambda: slow.acked)
        assert not question.acked
        setup.core.open.set()
        assert await told(setup, slow) == "It comes as a message here."
        assert await told(setup, question) == "It comes as a message here."


async def test_what_cannot_be_stored_is_not_acknowledged() -> None:
    def failing(event: Event) -> Outcome:
        if isinstance(event, IncomingCommand) and event.name == "reset":
            raise StorageError("The disk is full.")
        return Notice("done")

    async with run_slack_adapter(core=RecordingCore(says=failing)) as setup:
        lost = await setup.ana.commands(setup.general, "reset")
        await told(setup, await setup.ana.commands(setup.general, "status"))
        assert not lost.acked
        assert not lost.messages


async def test_what_fails_after_the_acknowledgement_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(event: Event) -> Outcome:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(ephemeral_replies, "ACK_S", 0.05)
    async with run_slack_adapter(core=RecordingCore(says=failing)) as setup:
        setup.core.open.clear()
        use = await setup.ana.commands(setup.general, "undo")
        await setup.server.until(lambda: use.acked)
        setup.core.open.set()
        assert await told(setup, use) == "The disk is full."


async def test_an_event_that_was_known_is_not_answered_again() -> None:
    async with run_slack_adapter(core=saying(Accepted())) as setup:
        known = await setup.ana.commands(setup.general, "reset")
        await setup.server.until(lambda: known.acked)
        setup.core.says = lambda event: Notice("done")
        await told(setup, await setup.ana.commands(setup.general, "reset"))
        assert not known.messages


async def test_long_answers_come_in_parts() -> None:
    text = "\n\n".join(["a paragraph " * 40] * 12)
    async with run_slack_adapter(core=saying(Notice(text))) as setup:
        use = await setup.ana.commands(setup.general, "why")
        await told(setup, use, 3)
        assert " ".join(message.shown for message in use.messages).split() == text.split()
        assert not setup.server.dm(setup.ana).messages


async def test_what_is_longer_than_five_messages_comes_as_a_file_of_ones_own() -> None:
    text = "\n\n".join(["a paragraph " * 40] * 60)
    async with run_slack_adapter(core=saying(Notice(text))) as setup:
        use = await setup.ana.commands(setup.general, "why")
        assert "direct message" in await told(setup, use, 5)
        (sent,) = setup.server.dm(setup.ana).messages
        assert sent.files == {"answer.md": text.encode()}
        assert len(use.messages) == 5
        assert not setup.general.messages


async def test_an_export_goes_to_ones_direct_messages() -> None:
    outcome = Notice("Here are the 2 messages.", attachment=Attachment("conversation.md", "# all"))
    async with run_slack_adapter(core=saying(outcome)) as setup:
        text = await told(setup, await setup.ana.commands(setup.general, "export"))
        assert text.startswith("Here are the 2 messages.\n\nThe file is in our direct messages.\n\nA thread is")
        (sent,) = setup.server.dm(setup.ana).messages
        assert sent.files == {"conversation.md": b"# all"}
        assert not setup.general.messages
        setup.server.faults.refuse("conversations.open", "cannot_dm_bot")
        assert "I could not send you the file" in await told(setup, await setup.ana.commands(setup.general, "export"))


async def test_asking_where_the_bot_is_not_is_reported_at_once() -> None:
    async with run_slack_adapter() as setup:
        for kind in ("channel", GROUP):
            elsewhere = setup.server.channel(f"a {kind}", kind, with_bot=False)
            use = await setup.ana.commands(elsewhere, "ask why?")
            assert "Add me first" in await told(setup, use)
        assert not setup.core.events
        assert "It comes" in await told(setup, await setup.ana.commands(setup.general, "ask why?"))
        assert (await setup.core.command()).args == {"prompt": "why?"}


REFUSED = Refused("You have no answer in progress here.")


@pytest.mark.parametrize(
    ("typed", "outcome", "hinted"),
    [
        ("stop", REFUSED, False),
        ("stop", Notice("Stopped."), False),
        ("undo", REFUSED, True),
        ("reset", Notice("A new conversation begins."), True),
        ("model phi-9", Refused("There is no such model."), False),
    ],
)
async def test_a_command_that_may_mean_a_thread_explains_its_form_there(
    typed: str, outcome: Outcome, hinted: bool
) -> None:
    async with run_slack_adapter(core=saying(outcome)) as setup:
        hint = f"A thread is a conversation of its own: write `!{typed}` in it."
        assert (hint in await told(setup, await setup.ana.commands(setup.general, typed))) == hinted
        assert hint not in await told(setup, await setup.ana.commands(setup.server.dm(setup.ana), typed))
    async with run_slack_adapter(core=saying(outcome), reply_in_thread=False) as setup:
        assert hint not in await told(setup, await setup.ana.commands(setup.general, typed))


@pytest.mark.parametrize("typed", ["", "help", " HELP "])
async def test_help_is_five_lines_and_the_rest_comes_on_demand(typed: str) -> None:
    async with run_slack_adapter(core=saying(SETTINGS)) as setup:
        use = await setup.ana.commands(setup.general, typed)
        lines = (await told(setup, use)).splitlines()
        assert len(lines) == 5
        assert "`/inhouse help all`" in lines[-1]
        for press in (
            await setup.ana.presses(use.messages[0], "All commands and settings"),
            await setup.ana.commands(setup.general, "Help  all"),
        ):
            shown = await told(setup, press)
            for line in help_text("/inhouse ").splitlines():
                assert line in shown
            assert "model: small (default)" in shown


async def test_typed_help_is_as_short() -> None:
    async with run_slack_adapter(core=saying(Notice("A long text."))) as setup:
        dm = setup.server.dm(setup.ana)
        await setup.ana.says(dm, "!help")
        await setup.server.until(lambda: dm.messages)
        assert len(dm.messages[0].shown.splitlines()) == 5


async def test_help_has_a_menu_of_the_models() -> None:
    async with run_slack_adapter(core=saying(SETTINGS)) as setup:
        setup.core.offered = [Choice(f"m{n} " + "x" * 90, f"m{n}") for n in range(120)] + [Choice("long", "m" * 200)]
        use = await setup.ana.commands(setup.general)
        await told(setup, use)
        _, menu = use.messages[0].buttons
        assert len(menu["options"]) == 100
        assert all(len(option["text"]["text"]) <= 75 for option in menu["options"])
        assert menu["options"][0]["text"]["text"].startswith("m0 xxx")


async def test_who_is_not_served_sees_no_more_than_that() -> None:
    async with run_slack_adapter(core=saying(Refused("I do not serve this place."))) as setup:
        use = await setup.ana.commands(setup.general)
        assert await told(setup, use) == "I do not serve this place."
        assert not use.messages[0].buttons


async def test_a_model_is_chosen_from_the_menu() -> None:
    def says(event: Event) -> Outcome:
        assert isinstance(event, IncomingCommand)
        return Notice("phi-4 answers here now.") if event.args else Notice("small answers here.")

    async with run_slack_adapter(core=RecordingCore(says=says)) as setup:
        setup.core.offered = [Choice("small · fits", "small"), Choice("phi-4 · tight", "phi-4")]
        use = await setup.ana.commands(setup.general, "model")
        assert await told(setup, use) == "small answers here."
        async with run_slack_adapter(setup.server, core=setup.core) as again:
            await setup.adapter.close()
            await setup.running
            choice = await again.ana.chooses(use.messages[0], "phi-4")
            assert await told(again, choice) == "phi-4 answers here now."
            command = await again.core.command(2)
            assert (command.key, command.name, command.args) == (key_of(setup.general), "model", {"name": "phi-4"})
            assert (command.actor.id, command.event_id != "") == (again.ana.id, True)
        assert use.messages[0].shown == "small answers here.", "what was chosen from stays"


async def test_without_models_there_is_no_menu() -> None:
    async with run_slack_adapter(core=saying(SETTINGS)) as setup:
        use = await setup.ana.commands(setup.general)
        await told(setup, use)
        assert use.messages[0].labels == ["All commands and settings"]
        assert len(use.messages[0].buttons) == 1
