"""Tests rows of the table of rights over the real adapters, on both platforms."""

from pathlib import Path
from typing import Any

from tests.support.builders.platform_services import Message, Person, Platform, PlatformSetup
from tests.support.builders.storage_rows import rows

pytest_plugins = ["tests.support.fixtures.both_platforms"]


def stored(root: Path) -> list[str]:
    """All stored texts of questions."""
    return [
        str(text) for (text,) in rows(root / "state", "SELECT text FROM turns WHERE role = 'user' ORDER BY sent_at")
    ]


async def asks(platform: Platform, setup: PlatformSetup, who: Person, text: str, first: Message = None) -> Message:
    """Asks in the conversation of `first` and waits for the answer."""
    question = await who.says(setup.general, text, mention=True, **_thread(platform, first))
    await setup.answer_to(question)
    return question


async def commands(platform: Platform, setup: PlatformSetup, who: Person, text: str, first: Message) -> str:
    """Writes a command to the bot in the conversation of `first`; what it is told."""
    before = _told(platform, setup)
    await who.says(setup.general, text, mention=True, **_thread(platform, first))
    await setup.server.until(lambda: len(_told(platform, setup)) > len(before))
    return _told(platform, setup)[-1]


async def presses(platform: Platform, who: Person, message: Message, label: str) -> str:
    """Presses a button under an answer; what the user is told."""
    if platform.name == "discord":
        return str(await (await who.clicks(message, label)).answered())
    return await _ephemeral(platform, await who.presses(message, label))


async def forgets(platform: Platform, who: Person, message: Message) -> str:
    """Uses 'Forget this' on a message; what the user is told."""
    if platform.name == "discord":
        return str(await (await who.uses("Forget this", on=message)).answered())
    return await _ephemeral(platform, await who.picks(message, "forget_this"))


def _thread(platform: Platform, first: Message | None) -> dict[str, Any]:
    return {"thread": first} if platform.name == "slack" and first is not None else {}


def _told(platform: Platform, setup: PlatformSetup) -> list[str]:
    if platform.name == "discord":
        return [each.content for each in setup.general.messages if not each.buttons]
    return [each.shown for each in setup.general.ephemerals]


async def _ephemeral(platform: Platform, use: Any) -> str:
    await platform.server.until(lambda: use.messages)
    return str(use.messages[-1].shown)


async def test_ordinary_people_undo_and_forget_only_their_own(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    async with platform.open(tmp_path) as setup:
        first = await asks(platform, setup, setup.ana, "first of ana")
        for who, text in ((setup.ben, "first of ben"), (setup.ben, "second of ben")):
            await asks(platform, setup, who, text, first)
        assert "Removed your last question" in await commands(platform, setup, setup.ana, "!undo", first)
        assert stored(tmp_path) == ["first of ben", "second of ben"]
        assert "Deleted 0" in await commands(platform, setup, setup.ana, "!forget", first)
        assert "Only channel managers" in await commands(platform, setup, setup.ana, "!forget all", first)
        assert stored(tmp_path) == ["first of ben", "second of ben"]
        assert "Deleted 2" in await commands(platform, setup, setup.ben, "!forget last", first)
        assert stored(tmp_path) == ["first of ben"]


async def test_channel_managers_undo_and_forget_for_everybody(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    async with platform.open(tmp_path) as setup:
        first = await asks(platform, setup, setup.ana, "first of ana")
        for text in ("first of ben", "second of ben"):
            await asks(platform, setup, setup.ben, text, first)
        mod = platform.manager("mod")
        assert "Removed the last question, of `ben`," in await commands(platform, setup, mod, "!undo", first)
        assert stored(tmp_path) == ["first of ana", "first of ben"]
        assert "Deleted 4" in await commands(platform, setup, mod, "!forget all", first)
        assert stored(tmp_path) == []


async def test_reset_is_for_channel_managers_and_who_began_the_thread(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    async with platform.open(tmp_path) as setup:
        first = await asks(platform, setup, setup.ana, "first of ana")
        await asks(platform, setup, setup.ben, "first of ben", first)
        assert "Only channel managers" in await commands(platform, setup, setup.ben, "!reset", first)
        began = await commands(platform, setup, setup.ana, "!reset", first)
        assert began.startswith("New conversation" if platform.name == "slack" else "Only channel managers")
        assert "New conversation" in await commands(platform, setup, platform.manager("mod"), "!reset", first)


async def test_thumbs_are_everybodys_and_the_other_buttons_are_not(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    async with platform.open(tmp_path) as setup:
        first = await asks(platform, setup, setup.ana, "first of ana")
        found = setup.answers_to(first)[0]
        answer = found[0] if platform.name == "discord" else found
        good = "Good answer"
        if platform.name == "discord":  # its button has an emoji, no label
            good = next(each["custom_id"] for each in answer.buttons if ":good:" in each["custom_id"])
        assert await presses(platform, setup.ben, answer, good) == "Thank you, noted."
        assert "Only `ana` and channel managers" in await presses(platform, setup.ben, answer, "Regenerate")
        assert rows(tmp_path / "state", "SELECT actor_id FROM ratings") == [(setup.ben.id,)]


async def test_forget_this_is_for_the_author_also_on_the_answer(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    async with platform.open(tmp_path) as setup:
        first = await asks(platform, setup, setup.ana, "first of ana")
        found = setup.answers_to(first)[0]
        answer = found[0] if platform.name == "discord" else found
        settled = "SELECT 1 FROM outbox WHERE state = 'final'"
        await setup.server.until(lambda: rows(tmp_path / "state", settled) != [])
        for message in (first, answer):
            assert "Only its author" in await forgets(platform, setup.ben, message)
        assert stored(tmp_path) == ["first of ana"]
        assert "is deleted" in await forgets(platform, setup.ana, answer)
        assert stored(tmp_path) == []
