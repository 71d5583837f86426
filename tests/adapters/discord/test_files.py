"""Tests files of a message: text is read whatever its name, other files are explained in one sentence."""

from bot.platforms.textfiles import MAX_BYTES, MAX_FILES
from bot.types.messages import Attachment
from tests.support.builders.discord_adapter import run_discord_adapter
from tests.support.builders.picture_files import encoded, half_red, phone_photo


async def test_text_is_read_and_the_rest_is_reported() -> None:
    async with run_discord_adapter() as setup:
        files = {
            "main.rs": b"fn main() {}",
            "cat.png": b"\x89PNG",
            "paper.pdf": b"%PDF\x00",
            "huge.log": b"x" * (MAX_BYTES + 1),
        }
        await setup.ana.says(setup.general, "look", mention=True, files=files)
        event = await setup.core.message()
        assert event.attachments == (Attachment("main.rs", "fn main() {}"),)
        assert event.remark == (
            "`cat.png` is not a PNG, JPEG, WebP or GIF picture, so I left it out. "
            "`paper.pdf` is not a text file, so I could not read it. "
            "`huge.log` is larger than the 200 kB that I read, so I left it out."
        )


async def test_pictures_are_handed_over_beside_the_text() -> None:
    async with run_discord_adapter() as setup:
        files = {"cat.png": encoded(half_red(), "PNG"), "a.txt": b"hi", "photo.jpg": phone_photo(6)}
        await setup.ana.says(setup.general, "look", mention=True, files=files)
        event = await setup.core.message()
        assert event.attachments == (Attachment("a.txt", "hi"),)
        shown = [(each.name, each.kind, each.width, each.height) for each in event.pictures]
        assert shown == [("cat.png", "image/png", 60, 40), ("photo.jpg", "image/jpeg", 40, 60)]
        assert event.remark == ""


async def test_only_so_many_files_are_read() -> None:
    async with run_discord_adapter() as setup:
        files = {f"{number}.txt": b"x" for number in range(MAX_FILES + 1)}
        await setup.ana.says(setup.general, "look", mention=True, files=files)
        event = await setup.core.message()
        assert len(event.attachments) == MAX_FILES
        assert event.remark == "I read only the first 5 files of a message."


async def test_a_file_that_is_gone_keeps_no_message_back() -> None:
    async with run_discord_adapter() as setup:
        said = await setup.ana.says(setup.general, "look", mention=True, files={"a.txt": b"x"})
        said.attachments.clear()
        event = await setup.core.message()
        assert (event.text, event.attachments) == ("look", ())
        assert event.remark == "`a.txt` could not be fetched from Discord, so I left it out."
