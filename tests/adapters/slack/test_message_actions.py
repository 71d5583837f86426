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
    MessageDeleted,
    Notice,
    Outcome,
    Person,
    Refused,
)
from tests.support.builders.slack_adapter import key_of, on_stage, reply_to, settings_of
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
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", buttons=(kind,)))
        async with on_stage(stage.server, core=saying(Refused("Only ana can do that here."))) as again:
            await stage.adapter.close()
            await stage.running
            press = await again.ben.presses(stage.general.messages[0], label)
            assert await told(again, press) == "Only ana can do that here."
            assert press.messages[0].thread_ts == question.ts
            (action,) = await again.core.got(IncomingAction)
            assert press.envelope is not None
            trigger = press.envelope.payload["trigger_id"]
            actor = Person(again.ben.id, "ben")
            assert action == IncomingAction(key_of(stage.general, question), trigger, actor, REPLY, kind)
            assert stage.general.messages[0].shown == "hi"


@pytest.mark.parametrize(
    ("label", "kind"), [("Good answer", ActionKind.GOOD), ("Bad answer", ActionKind.BAD), ("Regenerate", None)]
)
async def test_slacks_own_feedback_buttons_say_good_or_bad(label: str, kind: ActionKind | None) -> None:
    async with on_stage(core=saying(Notice("Thank you, noted."))) as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        buttons = (ActionKind.REGENERATE, ActionKind.GOOD, ActionKind.BAD)
        await stage.adapter.post(reply_to(question, "hi", buttons=buttons, final=True))
        await told(stage, await stage.ana.presses(stage.general.messages[0], label))
        (action,) = await stage.core.got(IncomingAction)
        assert (action.reply_id, action.kind) == (REPLY, kind or ActionKind.REGENERATE)


async def test_in_direct_messages_a_conversation_has_no_thread() -> None:
    async with on_stage(core=saying(Notice("Stopped."))) as stage:
        private = stage.server.dm(stage.ana)
        question = await stage.ana.says(private, "hello")
        await stage.adapter.post(reply_to(question, "hi", buttons=(ActionKind.STOP,)))
        await told(stage, await stage.ana.presses(private.messages[-1], "Stop"))
        (action,) = await stage.core.got(IncomingAction)
        assert (action.key, action.actor.manages_channel) == (key_of(private), True)


async def test_an_answer_that_a_thread_starts_from_is_not_in_it() -> None:
    async with on_stage(core=saying(Notice("Thank you, noted.")), reply_in_thread=False) as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", key=key_of(stage.general), buttons=(ActionKind.GOOD,)))
        (answer,) = [each for each in stage.general.messages if each.buttons]
        await stage.ben.says(stage.general, "really?", thread=answer)
        await told(stage, await stage.ana.presses(answer, "👍"))
        assert (await stage.core.got(IncomingAction))[0].key == key_of(stage.general)


async def test_a_button_whose_work_shows_elsewhere_says_nothing() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", buttons=(ActionKind.REGENERATE,)))
        silent = await stage.ana.presses(stage.general.messages[0], "Regenerate")
        await stage.server.until(lambda: silent.acked)
        stage.core.says = lambda event: Notice("done")
        await told(stage, await stage.ana.presses(stage.general.messages[0], "Regenerate"))
        assert not silent.messages


async def test_a_press_that_cannot_be_stored_is_not_acknowledged() -> None:
    def failing(event: Event) -> Outcome:
        if isinstance(event, IncomingAction) and event.kind is ActionKind.STOP:
            raise StorageError("The disk is full.")
        return Notice("done")

    async with on_stage(core=RecordingCore(says=failing)) as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", buttons=(ActionKind.STOP, ActionKind.CONTINUE)))
        (answer,) = [each for each in stage.general.messages if each.buttons]
        lost = await stage.ana.presses(answer, "Stop")
        await told(stage, await stage.ana.presses(answer, "Continue"))
        assert not lost.acked


@pytest.mark.parametrize("action_id", ["ih:dance:x:y", "ih:stop:x", "somebody else's", "inhouse_model"])
async def test_what_is_no_button_of_ours_is_acknowledged_and_that_is_all(action_id: str) -> None:
    async with on_stage(core=saying(Notice("done"))) as stage:
        button = {"type": "button", "action_id": action_id, "text": {"type": "plain_text", "text": "?"}}
        blocks = [{"type": "actions", "elements": [button]}]
        await web_client(settings_of(stage.server)).chat_postMessage(channel=stage.general.id, text="?", blocks=blocks)
        press = await stage.ana.presses(stage.general.messages[0], "?")
        await stage.server.until(lambda: press.acked)
        await told(stage, await stage.ana.commands(stage.general, "status"))
        assert len(stage.core.events) == 1
        assert not press.messages


async def test_anybodys_message_can_be_answered_by_the_menu() -> None:
    async with on_stage() as stage:
        said = await stage.ben.says(stage.general, "why is the sky blue?", files={"sky.txt": b"blue"})
        assert await told(stage, await stage.ana.picks(said, "answer_this")) == "It comes as a message here."
        event = await stage.core.message(2)
        assert (event.key, event.message_id) == (key_of(stage.general, said), said.ts)
        assert (event.text, event.addressed) == ("why is the sky blue?", True)
        assert event.author == Person(stage.ana.id, "ben"), "the asker decides about it, the history shows who said it"
        assert event.attachments == (Attachment("sky.txt", "blue"),)
        stage.core.says = lambda event: Accepted()
        assert "answered that already" in await told(stage, await stage.ana.picks(said, "answer_this"))


async def test_the_menu_says_where_the_bot_cannot_answer() -> None:
    async with on_stage() as stage:
        elsewhere = stage.server.channel("elsewhere", with_bot=False)
        said = await stage.ben.says(elsewhere, "why is the sky blue?")
        assert "Add me first" in await told(stage, await stage.ana.picks(said, "answer_this"))
        assert not stage.core.events


async def test_ones_own_message_can_be_forgotten_by_the_menu_and_moderators_can_have_any() -> None:
    async with on_stage() as stage:
        boss = stage.server.user("boss", admin=True)
        said = await stage.ana.says(stage.general, "a secret", mention=True)
        await stage.adapter.post(reply_to(said, "I will keep it"))
        await stage.adapter.update(
            reply_to(said, "I will keep it", platform_id=stage.general.messages[0].ts, final=True)
        )
        (answer,) = stage.general.messages
        for target in (said, answer):
            assert "Only its author" in await told(stage, await stage.ben.picks(target, "forget_this"))
        assert not [event for event in stage.core.events if isinstance(event, MessageDeleted)]
        for who in (stage.ana, boss):
            for target in (said, answer):
                assert "is deleted" in await told(stage, await who.picks(target, "forget_this"))
        gone = set(await stage.core.got(MessageDeleted, 8))
        assert gone == {MessageDeleted(key_of(stage.general, thread), said.ts) for thread in ("", said)}


async def test_words_of_the_bots_own_answer_no_question() -> None:
    async with on_stage(core=saying(Refused("No."))) as stage:
        await stage.ana.says(stage.general, "hello", mention=True)
        await stage.server.until(lambda: stage.general.messages)
        use = await stage.ana.picks(stage.general.messages[0], "forget_this")
        assert "on the question itself" in await told(stage, use)
