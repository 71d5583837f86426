"""Tests what people see of a model's thoughts: a button shows them to who presses it, and nothing else does."""

from pathlib import Path

import pytest

from bot.core.actions import LONGEST_THOUGHTS, THOUGHTS_GONE
from bot.service import retention
from bot.types.messages import ActionKind, FinishReason, Notice, Refused
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


async def test_the_button_shows_the_thoughts_to_who_presses_it(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Hi.", reasoning="They greet me.")
    answer = await team.asks("ana", "hello")
    buttons = (ActionKind.REGENERATE, ActionKind.THOUGHTS, ActionKind.GOOD, ActionKind.BAD)
    assert (answer.text, answer.first.buttons) == ("Hi.", buttons)
    shown = await team.presses(answer.first, ActionKind.THOUGHTS, who="ben")
    assert shown == Notice("What the model thought:\n\nThey greet me.", private=True)
    plain = await team.asks("ana", "and now?")
    assert ActionKind.THOUGHTS not in plain.first.buttons
    assert "greet" not in str(setup.engine.prompt_of("and now?"))
    assert "greet" not in str([posted.history for posted in setup.platform.posted])


async def test_long_thoughts_are_a_file(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Hi.", reasoning="Hm. " * LONGEST_THOUGHTS)
    shown = await team.presses((await team.asks("ana", "hello")).first, ActionKind.THOUGHTS)
    assert isinstance(shown, Notice)
    assert shown.private
    assert shown.attachment is not None
    assert shown.attachment.text == ("Hm. " * LONGEST_THOUGHTS).strip()


async def test_thoughts_are_exported_only_if_they_are_asked_for(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Hi.", reasoning="They greet me.")
    await team.asks("ana", "hello")
    for typed in ("", "markdown", "json"):
        file = await exported(team, typed)
        assert "Hi." in file
        assert "greet" not in file
    file = await exported(team, "thoughts")
    assert file.index("hello") < file.index("They greet me.") < file.index("Hi.")


async def exported(team: Team, typed: str) -> str:
    outcome = await team.command("export", typed, who="ana")
    assert isinstance(outcome, Notice)
    assert outcome.attachment is not None
    return outcome.attachment.text


@pytest.mark.parametrize("way", ["forget", "delete", "a day"])
async def test_thoughts_that_are_gone_are_said_to_be_gone(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    setup.engine.answers("hello", "Hi.", reasoning="They greet me.")
    answer = await team.asks("ana", "hello")
    match way:
        case "forget":
            await team.command("forget", who="ana")
        case "delete":
            await team.deletes("hello")
        case "a day":
            monkeypatch.setattr("bot.storage.outbox.THOUGHTS_S", -1.0)
    assert await team.presses(answer.first, ActionKind.THOUGHTS) == Refused(THOUGHTS_GONE)


async def test_the_service_deletes_old_thoughts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LOOK_S", 0.05)
    async with run_service(tmp_path) as setup:
        setup.engine.answers("hello", "Hi.", reasoning="They greet me.")
        await setup.team.asks("ana", "hello")
        state = setup.settings.state_dir
        assert len(rows(state, "SELECT * FROM thoughts")) == 1
        monkeypatch.setattr(retention, "THOUGHTS_S", -1.0)
        await setup.platform.until(lambda: not rows(state, "SELECT * FROM thoughts"), "they are deleted")


async def test_an_answer_that_failed_has_no_thoughts_to_show(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Hi.", reasoning="They greet me.", fails_at=0)
    answer = await team.asks("ana", "hello")
    assert answer.reason is FinishReason.ERROR
    assert answer.first.buttons == (ActionKind.REGENERATE,)
