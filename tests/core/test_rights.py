"""Tests who may do what: each row of the table of rights, by commands, buttons and menu entries.

Ana and Ben are ordinary users, Boss manages the channel, Root is an admin.
"""

import pytest

from bot.core.actions import FORGOTTEN, NOT_ITS_AUTHOR, NOT_STORED
from bot.types.messages import Accepted, ActionKind, IncomingMessage, Notice, Outcome, Refused
from tests.support.builders.service import ServiceSetup
from tests.support.builders.storage_rows import rows
from tests.support.fakes.team import Answer, Team, person

pytest_plugins = ["tests.support.fixtures.service"]

NOT_ANA = Refused("Only `Ana` and channel managers can do that here.")
MANAGERS = ("boss", "root")


def stored(setup: ServiceSetup) -> list[str]:
    """All stored texts."""
    return [str(text) for (text,) in rows(setup.settings.state_dir, "SELECT text FROM turns ORDER BY sent_at, id")]


async def two_questions(team: Team) -> tuple[Answer, Answer]:
    """A question of Ana's, then one of Ben's."""
    return await team.asks("ana", "from ana"), await team.asks("ben", "from ben")


@pytest.mark.parametrize("name", ["help", "status", "settings", "why", "export", "model", "temperature", "system"])
async def test_read_is_for_everyone(team: Team, name: str) -> None:
    await team.asks("ana", "hello")
    assert isinstance(await team.command(name, who="ben"), Notice)


async def test_ask_is_for_everyone_also_about_anothers_message(setup: ServiceSetup, team: Team) -> None:
    assert isinstance(await team.command("ask", "what?", who="ben"), Accepted)
    await team.reply_to("what?")
    answer = await team.asks("ana", "anas words", asker="ben")
    assert answer.first.reply.asker == person("ben")
    assert rows(setup.settings.state_dir, "SELECT author_id FROM turns WHERE text = 'anas words'") == [("id-ana",)]


@pytest.mark.parametrize("kind", [ActionKind.GOOD, ActionKind.BAD])
async def test_rate_is_for_everyone(setup: ServiceSetup, team: Team, kind: ActionKind) -> None:
    answer = await team.asks("ana", "hello")
    for who in ("ana", "ben"):
        assert await team.presses(answer.first, kind, who=who) == Notice("Thank you, noted.")
    found = rows(setup.settings.state_dir, "SELECT actor_id FROM ratings ORDER BY actor_id")
    assert found == [("id-ana",), ("id-ben",)]


@pytest.mark.parametrize("who", ["ana", *MANAGERS])
async def test_stop_is_for_the_asker_and_channel_managers(setup: ServiceSetup, team: Team, who: str) -> None:
    for text, by_button in (("one", True), ("two", False)):
        setup.platform.gates.hold(f"{text}/1")
        await team.says("ana", text)
        message = await team.sees(text, "You")
        assert await team.presses(message, ActionKind.STOP, who="ben") == NOT_ANA
        assert await team.command("stop", who="ben") == Refused("You have no answer in progress here.")
        stopping = team.presses(message, ActionKind.STOP, who=who) if by_button else team.command("stop", who=who)
        assert await stopping == Notice("Stopped.")
        await team.reply_to(text)


@pytest.mark.parametrize("who", ["ana", *MANAGERS])
async def test_repeat_is_for_the_asker_and_channel_managers(team: Team, who: str) -> None:
    answer = await team.asks("ana", "hello")

    async def repeats(who: str) -> list[Outcome]:
        kinds = (ActionKind.REGENERATE, ActionKind.CONTINUE, ActionKind.RERUN)
        outcomes = []
        for number in range(5):
            if number < len(kinds):
                outcomes.append(await team.presses(answer.first, kinds[number], who=who))
            else:
                outcomes.append(await team.command(("regenerate", "continue")[number - len(kinds)], who=who))
            if isinstance(outcomes[-1], Accepted):
                await team.reply_to("hello", len(team.replies_to("hello")) + 1)
        return outcomes

    assert await repeats("ben") == [NOT_ANA] * 5
    assert all(isinstance(outcome, Accepted) for outcome in await repeats(who))


async def test_the_asker_keeps_the_rights_on_an_answer_that_a_manager_had_repeated(team: Team) -> None:
    answer = await team.asks("ana", "hello")
    await team.presses(answer.first, ActionKind.REGENERATE, who="boss")
    again = await team.reply_to("hello", 2)
    assert isinstance(await team.presses(again.first, ActionKind.REGENERATE, who="ben"), Refused)
    assert isinstance(await team.presses(again.first, ActionKind.REGENERATE, who="ana"), Accepted)


async def test_undo_takes_back_ones_own_last_question(setup: ServiceSetup, team: Team) -> None:
    await two_questions(team)
    assert await team.told("undo", who="ana") == "Removed your last question and its answer."
    assert stored(setup) == ["from ben", "You said: from ben"]
    assert await team.refused("undo", who="ana") == "There is no question of yours to undo."
    assert stored(setup) == ["from ben", "You said: from ben"]


@pytest.mark.parametrize("who", MANAGERS)
async def test_undo_by_a_channel_manager_takes_back_the_last_question_of_anybody(
    setup: ServiceSetup, team: Team, who: str
) -> None:
    await two_questions(team)
    assert await team.told("undo", who=who) == "Removed the last question, of `Ben`, and its answer."
    assert stored(setup) == ["from ana", "You said: from ana"]


async def test_undo_stops_only_the_answer_to_what_it_takes_back(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("from ana/1")
    await team.says("ana", "from ana")
    await team.sees("from ana", "You")
    await team.says("ben", "from ben")
    assert "your last question" in await team.told("undo", who="ben")
    await setup.platform.gates.open("from ana/1")
    assert (await team.reply_to("from ana")).text == "You said: from ana"
    assert stored(setup) == ["from ana", "You said: from ana"]


@pytest.mark.parametrize("what", ["", "mine"])
async def test_forget_deletes_ones_own_messages_and_their_answers(setup: ServiceSetup, team: Team, what: str) -> None:
    await team.asks("ana", "first of ana")
    await two_questions(team)
    setup.platform.gates.hold("third/1")
    await team.says("ben", "third")
    await team.sees("third", "You")
    assert await team.told("forget", what, who="ana") == "Deleted 4 stored messages of this conversation."
    await setup.platform.gates.open("third/1")
    assert (await team.reply_to("third")).text == "You said: third", "answers to others go on"
    assert stored(setup) == ["from ben", "You said: from ben", "third", "You said: third"]


async def test_forget_stops_the_answers_to_what_it_deletes(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("secret/1")
    await team.says("ana", "secret")
    await team.sees("secret", "You")
    await team.told("forget", who="ana")
    await team.reply_to("secret")
    assert stored(setup) == []


async def test_forget_leaves_answers_whose_questions_quote_the_message(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "from ana")
    await team.asks("ben", "ben on that")
    await team.told("forget", who="ana")
    answer = team.replies_to("ben on that")[0]
    assert isinstance(await team.presses(answer.first, ActionKind.REGENERATE, who="ben"), Accepted)
    await team.reply_to("ben on that", 2)
    assert [turn.text for turn in setup.engine.prompt_of("ben on that").prompt.turns] == ["ben on that"]
    assert "ben on that" in await team.told("why", who="ben")


async def test_forget_removes_ones_words_from_what_others_asked_about_them(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "secret")
    await team.asks("cleo", "between")
    target = team.asked["secret"]
    said = IncomingMessage(team.key, target, person("ana"), "secret", 1.0, addressed=False)
    asked = await team.asks("ben", "why?", reply_to=target)
    alone = await team.asks("ben", "", reply_to=target, context=(said,))
    quoted = "[Ana wrote]\n> secret\n\nwhy?"
    assert setup.engine.prompt_of(quoted).prompt.turns[-1].text == quoted
    await team.told("forget", who="ana")
    assert isinstance(await team.presses(asked.first, ActionKind.REGENERATE, who="ben"), Accepted)
    await team.reply_to("why?", 2)
    assert "secret" not in "".join(turn.text for turn in setup.engine.prompt_of("why?").prompt.turns)
    outcome = await team.presses(alone.first, ActionKind.REGENERATE, who="ben")
    assert outcome == Refused("The question is no longer stored, so I cannot answer it again.")


async def test_forget_deletes_ones_messages_that_came_as_context(setup: ServiceSetup, team: Team) -> None:
    said = IncomingMessage(team.key, "said", person("ana"), "between us", 0.5, addressed=False)
    await team.says("ben", "and?", context=(said,))
    await team.reply_to("and?")
    assert stored(setup) == ["between us", "and?", "You said: and?"]
    assert await team.told("forget", who="ana") == "Deleted 1 stored message of this conversation."
    assert stored(setup) == ["and?", "You said: and?"]


async def test_forget_all_is_for_channel_managers(setup: ServiceSetup, team: Team) -> None:
    await two_questions(team)
    refusal = "Only channel managers can delete everybody's messages here; without 'all', yours are deleted."
    assert await team.refused("forget", "all", who="ana") == refusal
    assert len(stored(setup)) == 4
    assert await team.told("forget", "all", who="boss") == "Deleted 4 stored messages of this conversation."
    assert stored(setup) == []


@pytest.mark.parametrize("who", ["ana", *MANAGERS])
async def test_a_message_is_forgotten_for_author_and_channel_managers(
    setup: ServiceSetup, team: Team, who: str
) -> None:
    question = await team.asks("ana", "secret")
    await team.asks("ben", "from ben")
    found = rows(setup.settings.state_dir, "SELECT platform_id FROM outbox WHERE committed LIKE '%secret'")
    answer_id = str(found[0][0])
    for message_id, author in ((team.asked["secret"], "ana"), (answer_id, "")):
        assert await team.forgets(message_id, author=author, who="ben") == Refused(NOT_ITS_AUTHOR)
    assert len(stored(setup)) == 4
    target = (answer_id, "") if who == "boss" else (team.asked["secret"], "ana")
    assert await team.forgets(target[0], author=target[1], who=who) == Notice(FORGOTTEN)
    assert stored(setup) == ["from ben", "You said: from ben"]
    assert isinstance(await team.presses(question.first, ActionKind.REGENERATE, who=who), Refused)


async def test_nothing_is_stored_of_a_message_that_only_told_something(team: Team) -> None:
    await team.asks("ana", "hello")
    assert await team.forgets("a notice of the bot", who="ana") == Refused("Nothing of that message is stored.")


async def test_asking_about_anothers_message_gives_no_right_to_forget_it(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "anas words", asker="ben")
    assert await team.told("forget", who="ben") == "Deleted 0 stored messages of this conversation."
    assert await team.forgets(team.asked["anas words"], author="ana", who="ben") == Refused(NOT_ITS_AUTHOR)
    assert stored(setup) == ["anas words", "You said: anas words"]
    assert await team.told("forget", who="ana") == "Deleted 2 stored messages of this conversation."


async def test_reset_in_a_channel_is_for_channel_managers(setup: ServiceSetup, team: Team) -> None:
    await two_questions(team)
    assert await team.refused("reset", who="ana") == "Only channel managers can start a new conversation here."
    await team.asks("ben", "third")
    assert len(setup.engine.prompt_of("third").prompt.turns) == 5
    assert "no longer reads 6 earlier messages" in await team.told("reset", who="boss")


async def test_reset_in_a_thread_is_also_for_its_first_author(team: Team) -> None:
    thread = team.elsewhere(thread="thread")
    await two_questions(thread)
    refusal = "Only channel managers and the person who began this thread can start a new conversation here."
    assert await thread.refused("reset", who="ben") == refusal
    assert "New conversation." in await thread.told("reset", who="ana")
    await thread.told("forget", who="ana")
    assert await thread.refused("reset", who="ben") == refusal, "a beginning that was forgotten passes to nobody"


async def test_the_author_of_the_message_that_a_thread_starts_from_began_it(team: Team) -> None:
    await team.asks("cleo", "start")
    thread = team.elsewhere(thread=team.asked["start"])
    await thread.asks("ana", "from ana")
    for who in ("cleo", "ana"):
        assert "New conversation." in await thread.told("reset", who=who)
    assert isinstance(await thread.command("reset", who="ben"), Refused)


@pytest.mark.parametrize(
    ("name", "typed", "role"),
    [
        ("temperature", "0.2", "channel managers"),
        ("top_p", "0.5", "channel managers"),
        ("max_tokens", "9", "channel managers"),
        ("think", "low", "channel managers"),
        ("system", "Be rude.", "channel managers"),
        ("model", "large", "admins"),
    ],
)
async def test_settings_are_for_their_role(team: Team, name: str, typed: str, role: str) -> None:
    assert f"Only {role} can change" in await team.refused(name, typed, who="ana")
    outcome = await team.command(name, typed, who="boss")
    assert isinstance(outcome, Refused if role == "admins" else Notice)
    assert isinstance(await team.command(name, typed, who="root"), Notice)


async def test_a_button_in_another_channel_than_its_answer_does_nothing(team: Team) -> None:
    answer = await team.asks("ana", "hello")
    copy = team.elsewhere(channel="other")
    for kind in ActionKind:
        for who in ("boss", "root"):
            assert await copy.presses(answer.first, kind, who=who) == Refused(NOT_STORED)


async def test_stop_in_a_channel_stops_ones_own_answers_in_its_threads(setup: ServiceSetup, team: Team) -> None:
    thread, other = team.elsewhere(thread="thread"), team.elsewhere(channel="other", thread="thread")
    for place, who, text in ((thread, "ana", "one"), (thread, "ben", "two"), (other, "ana", "three")):
        setup.platform.gates.hold(f"{text}/1")
        await place.says(who, text)
    await other.sees("three", "You")
    assert await team.refused("stop", who="boss") == "You have no answer in progress here.", (
        "of a thread, only one's own"
    )
    assert await team.told("stop", who="ana") == "Stopped."
    await thread.reply_to("one")
    assert await team.refused("stop", who="ana") == "You have no answer in progress here."
    assert await thread.refused("stop", who="ana") == "You have no answer in progress here.", "Ben's goes on"
    assert await thread.told("stop", who="boss") == "Stopped."
    assert await other.told("stop", who="ana") == "Stopped."
