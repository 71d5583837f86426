"""Tests buttons, the menu of models and the shortcuts of a message, also after a restart."""

import pytest

from adapters.slack.web_client import web_client
from bot.types.errors import StorageError
from bot.types.messages import (
    Accepted,
    ActionKind,
    Attachment,
    Event,
    IncomingAction,
    IncomingForget,
    Notice,
    Outcome,
    Person,
    Refused,
)
from tests.support.builders.slack_adapter import key_of, reply_to, run_slack_adapter, settings_of
from tests.support.builders.slack_interactions import saying, told
from tests.support.fakes.recording_core import RecordingCore

LABELS = {
    ActionKind.STOP: "Stop",
    ActionKind.REGENERATE: "Regenerate",
    ActionKind.CONTINUE: "Continue",
    ActionKind.RERUN: "Answer the edited question",
    ActionKind.GOOD: "👍",
}
REPLY = "a" * 20


@pytest.mark.parametrize(("kind", "label"), LABELS.items())
async def test_a_button_works_after_a_restart(kind: ActionKind, label: str) -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", buttons=(kind,)))
        async with run_slack_adapter(setup.server, core=saying(Refused("Only ana can do that here."))) as again:
            await setup.adapter.close()
            await setup.running
            press = await again.ben.presses(setup.general.messages[0], label)
            assert await told(again, press) == "Only ana can do that here."
            assert press.messages[0].thread_ts == question.ts
            (action,) = await again.core.got(IncomingAction)
            assert press.envelope is not None
            trigger = press.envelope.payload["trigger_id"]
            actor = Person(again.ben.id, "ben")
            assert action == IncomingAction(key_of(setup.general, question), trigger, actor, REPLY, kind)
            assert setup.general.messages[0].shown == "hi"


@pytest.mark.parametrize(
    ("label", "kind"), [("Good answer", ActionKind.GOOD), ("Bad answer", ActionKind.BAD), ("Regenerate", None)]
)
async def test_slacks_own_feedback_buttons_say_good_or_bad(label: str, kind: ActionKind | None) -> None:
    async with run_slack_adapter(core=saying(Notice("Thank you, noted."))) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        buttons = (ActionKind.REGENERATE, ActionKind.GOOD, ActionKind.BAD)
        await setup.adapter.post(reply_to(question, "hi", buttons=buttons, final=True))
        await told(setup, await setup.ana.presses(setup.general.messages[0], label))
        (action,) = await setup.core.got(IncomingAction)
        assert (action.reply_id, action.kind) == (REPLY, kind or ActionKind.REGENERATE)


async def test_in_direct_messages_a_conversation_has_no_thread() -> None:
    async with run_slack_adapter(core=saying(Notice("Stopped."))) as setup:
        private = setup.server.dm(setup.ana)
        question = await setup.ana.says(private, "hello")
        await setup.adapter.post(reply_to(question, "hi", buttons=(ActionKind.STOP,)))
        await told(setup, await setup.ana.presses(private.messages[-1], "Stop"))
        (action,) = await setup.core.got(IncomingAction)
        assert (action.key, action.actor.manages_channel) == (key_of(private), True)


async def test_an_answer_that_a_thread_starts_from_is_not_in_it() -> None:
    async with run_slack_adapter(core=saying(Notice("Thank you, noted.")), reply_in_thread=False) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", key=key_of(setup.general), buttons=(ActionKind.GOOD,)))
        (answer,) = [each for each in setup.general.messages if each.buttons]
        await setup.ben.says(setup.general, "really?", thread=answer)
        await told(setup, await setup.ana.presses(answer, "👍"))
        assert (await setup.core.got(IncomingAction))[0].key == key_of(setup.general)


async def test_a_button_whose_work_shows_elsewhere_says_nothing() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", buttons=(ActionKind.REGENERATE,)))
        silent = await setup.ana.presses(setup.general.messages[0], "Regenerate")
        await setup.server.until(lambda: silent.acked)
        setup.core.says = lambda event: Notice("done")
        await told(setup, await setup.ana.presses(setup.general.messages[0], "Regenerate"))
        assert not silent.messages


async def test_a_press_that_cannot_be_stored_is_not_acknowledged() -> None:
    def failing(event: Event) -> Outcome:
        if isinstance(event, IncomingAction) and event.kind is ActionKind.STOP:
            raise StorageError("The disk is full.")
        return Notice("done")

    async with run_slack_adapter(core=RecordingCore(says=failing)) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", buttons=(ActionKind.STOP, ActionKind.CONTINUE)))
        (answer,) = [each for each in setup.general.messages if each.buttons]
        lost = await setup.ana.presses(answer, "Stop")
        await told(setup, await setup.ana.presses(answer, "Continue"))
        assert not lost.acked


@pytest.mark.parametrize("action_id", ["ih:dance:x:y", "ih:stop:x", "another app's", "inhouse_model"])
async def test_what_is_no_button_of_ours_is_acknowledged_and_that_is_all(action_id: str) -> None:
    async with run_slack_adapter(core=saying(Notice("done"))) as setup:
        button = {"type": "button", "action_id": action_id, "text": {"type": "plain_text", "text": "?"}}
        blocks = [{"type": "actions", "elements": [button]}]
        await web_client(settings_of(setup.server)).chat_postMessage(channel=setup.general.id, text="?", blocks=blocks)
        press = await setup.ana.presses(setup.general.messages[0], "?")
        await setup.server.until(lambda: press.acked)
        await told(setup, await setup.ana.commands(setup.general, "status"))
        assert len(setup.core.events) == 1
        assert not press.messages


async def test_any_users_message_can_be_answered_by_the_menu() -> None:
    async with run_slack_adapter() as setup:
        said = await setup.ben.says(setup.general, "why is the sky blue?", files={"sky.txt": b"blue"})
        assert await told(setup, await setup.ana.picks(said, "answer_this")) == "It comes as a message here."
        event = await setup.core.message(2)
        assert (event.key, event.message_id) == (key_of(setup.general, said), said.ts)
        assert (event.text, event.addressed) == ("why is the sky blue?", True)
        assert event.author == Person(setup.ben.id, "ben")
        assert event.asker == Person(setup.ana.id, "ana")
        assert event.attachments == (Attachment("sky.txt", "blue"),)
        setup.core.says = lambda event: Accepted()
        assert "answered that already" in await told(setup, await setup.ana.picks(said, "answer_this"))


async def test_the_menu_says_where_the_bot_cannot_answer() -> None:
    async with run_slack_adapter() as setup:
        elsewhere = setup.server.channel("elsewhere", with_bot=False)
        said = await setup.ben.says(elsewhere, "why is the sky blue?")
        assert "Add me first" in await told(setup, await setup.ana.picks(said, "answer_this"))
        assert not setup.core.events


async def test_the_menu_asks_the_core_to_forget_a_message_or_an_answer() -> None:
    async with run_slack_adapter() as setup:
        boss = setup.server.user("boss", admin=True)
        said = await setup.ana.says(setup.general, "a secret", mention=True)
        await setup.adapter.post(reply_to(said, "I will keep it"))
        (answer,) = setup.general.messages
        setup.core.says = lambda event: Notice("done")
        for target in (said, answer):
            assert await told(setup, await boss.picks(target, "forget_this")) == "done"
        asked = await setup.core.got(IncomingForget, 2)
        assert [(each.message_id, each.author_id) for each in asked] == [
            (said.ts, setup.ana.id),
            (answer.ts, answer.author.id),
        ]
        assert all(each.actor.id == boss.id and each.actor.manages_channel for each in asked)
        assert {each.key.channel for each in asked} == {setup.general.id}
