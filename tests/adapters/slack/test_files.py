"""Tests files of a Slack message: text is read whatever its name, other files are explained in one sentence."""

from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from adapters.slack.bot_identity import BotIdentity
from adapters.slack.inbound.context_deadline import ContextDeadline
from adapters.slack.inbound.files import FileReader
from adapters.slack.payloads import SlackFile
from adapters.slack.web_client import web_client
from bot.platforms.textfiles import MAX_BYTES, MAX_FILES
from bot.types.messages import Attachment
from tests.support.builders.picture_files import encoded, half_red, phone_photo
from tests.support.builders.slack_adapter import run_slack_adapter, settings_of
from tests.support.fakes.slack_server import FakeSlack

IDENTITY = BotIdentity("T1", "Team", "", "U1", "B1", "A1", frozenset({"files:read"}))


def reader(server: FakeSlack) -> FileReader:
    """A FileReader with the fake's token."""
    return FileReader(web_client(settings_of(server)), lambda: IDENTITY)


def a_file(**more: Any) -> SlackFile:  # Any: the fields of a File
    """A small text file."""
    return replace(SlackFile("F1", "a.txt", "text/plain", 1, "", external=False, deleted=False), **more)


async def test_text_is_read_and_the_rest_is_reported() -> None:
    async with run_slack_adapter() as setup:
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
    async with run_slack_adapter() as setup:
        files = {"cat.png": encoded(half_red(), "PNG"), "a.txt": b"hi", "photo.jpg": phone_photo(6)}
        await setup.ana.says(setup.general, "look", mention=True, files=files)
        event = await setup.core.message()
        assert event.attachments == (Attachment("a.txt", "hi"),)
        shown = [(each.name, each.kind, each.width, each.height) for each in event.pictures]
        assert shown == [("cat.png", "image/png", 60, 40), ("photo.jpg", "image/jpeg", 40, 60)]
        assert event.remark == ""


async def test_only_so_many_files_are_read() -> None:
    async with run_slack_adapter() as setup:
        files = {f"{number}.txt": b"x" for number in range(MAX_FILES + 1)}
        await setup.ana.says(setup.general, "look", mention=True, files=files)
        event = await setup.core.message()
        assert len(event.attachments) == MAX_FILES
        assert event.remark == "I read only the first 5 files of a message."


async def test_a_file_that_cannot_be_fetched_keeps_no_message_back() -> None:
    async with run_slack_adapter() as setup:
        said = await setup.ana.says(setup.general, "look", mention=True, files={"a.txt": b"x"})
        said.files_[0].deleted = True
        event = await setup.core.message()
        assert (event.text, event.attachments) == ("look", ())
        assert event.remark == "`a.txt` could not be fetched from Slack, so I left it out."


async def test_the_page_on_which_slack_asks_to_sign_in_is_no_file() -> None:
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        said = await ana.says(general, "look", files={"a.txt": b"x"})
        server.scopes.discard("files:read")
        url = f"{server.api_url.removesuffix('api/')}files-pri/download/T1-{said.files_[0].id}/a.txt"
        read = await reader(server).read([a_file(url=url)], ContextDeadline())
        assert read.remark == "`a.txt` could not be fetched from Slack, so I left it out."


async def test_a_file_of_another_workspace_is_asked_for() -> None:
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        said = await ana.says(general, "look", files={"a.txt": b"shared"})
        read = await reader(server).read([a_file(id=said.files_[0].id)], ContextDeadline())
        assert read.texts == (Attachment("a.txt", "shared"),)


@pytest.mark.parametrize(
    ("file", "remark"),
    [
        (
            a_file(external=True, url="https://drive.example/x"),
            "`a.txt` is not on Slack itself, so I could not read it.",
        ),
        (a_file(deleted=True), "`a.txt` is not on Slack itself, so I could not read it."),
        (a_file(url="https://slack.com.example/x"), "`a.txt` could not be fetched from Slack, so I left it out."),
        (a_file(url="http://files.slack.com/x"), "`a.txt` could not be fetched from Slack, so I left it out."),
    ],
)
async def test_the_token_goes_to_slack_only(file: SlackFile, remark: str) -> None:
    async with FakeSlack() as server:
        assert (await reader(server).read([file], ContextDeadline())).remark == remark
        assert not server.calls


async def test_the_token_does_not_go_to_another_server_either() -> None:
    tokens: list[str] = []

    async def curious(request: web.BaseRequest) -> web.Response:
        tokens.append(request.headers.get("Authorization", ""))
        return web.Response(text="thank you")

    async with FakeSlack() as server, RawTestServer(curious) as other:
        file = a_file(url=str(other.make_url("/files-pri/a.txt")))
        assert (await reader(server).read([file], ContextDeadline())).texts == ()
    assert not tokens
