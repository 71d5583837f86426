"""Tests the fake Discord's REST API with the real discord.py: refusals, rate limits, scripted faults, history."""

import time
from typing import Any

import aiohttp
import discord
import pytest

from tests.support.fakes.discord import Can, FakeDiscord
from tests.support.fakes.discord.pings import Pings, evaluate
from tests.support.fakes.echo_bot import EchoBot, running

POST, EDIT = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"


def place(bot: EchoBot, channel_id: str) -> discord.TextChannel:
    found = bot.get_channel(int(channel_id))
    assert isinstance(found, discord.TextChannel)
    return found


async def ask(server: FakeDiscord, method: str, path: str, body: object = None, **options: Any) -> tuple[int, Any]:
    """A bare REST call: status and JSON."""
    headers = {"Authorization": f"Bot {options.get('token', server.token)}"}
    async with (
        aiohttp.ClientSession(connector=server.connector()) as session,
        session.request(method, f"https://discord.com/api/v10{path}", json=body, headers=headers) as response,
    ):
        assert response.status == 204 or response.headers["Content-Type"] == "application/json"
        return response.status, await response.json() if response.status != 204 else None


def button(**changes: object) -> list[dict[str, object]]:
    return [{"type": 1, "components": [{"type": 2, "style": 1, "label": "go", "custom_id": "a"} | changes]}]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"content": "x" * 2001}, 50035),
        ({"content": " \n"}, 50006),
        ({"components": button()}, 50006),
        ({"content": "x", "nonce": "n" * 26}, 50035),
        ({"content": "x", "components": button(custom_id="c" * 101)}, 50035),
        ({"content": "x", "components": button(label="l" * 81)}, 50035),
        ({"content": "x", "components": button() * 6}, 50035),
        ({"content": "x", "components": button() * 2}, 50035),
        ({"content": "x", "embeds": [{"description": "d" * 4097}]}, 50035),
        ({"embeds": [{"description": "d" * 3001}] * 2}, 50035),
        ({"embeds": [{"title": "t"}] * 11}, 50035),
        ({"content": "x", "allowed_mentions": {"parse": ["users"], "users": ["1"]}}, 50035),
        ({"content": "x", "message_reference": {"message_id": "1"}}, 50035),
    ],
)
async def test_a_message_that_discord_would_not_take_is_refused(body: dict[str, object], code: int) -> None:
    async with FakeDiscord() as server:
        general = server.text_channel("general")
        status, answer = await ask(server, "POST", f"/channels/{general.id}/messages", body)
        assert (status, answer["code"]) == (400, code)
        assert not general.history


async def test_a_message_at_the_limits_is_taken() -> None:
    async with FakeDiscord() as server:
        general = server.text_channel("general")
        body = {"content": "x" * 2000, "nonce": "n" * 25, "components": button(custom_id="c" * 100, label="l" * 80)}
        assert (await ask(server, "POST", f"/channels/{general.id}/messages", body))[0] == 200


async def test_what_is_not_there_not_allowed_or_not_ones_own_is_told_apart() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        theirs = await ana.says(general, "mine")
        messages = f"/channels/{general.id}/messages"
        text = {"content": "x"}

        async def code(method: str, path: str) -> tuple[int, int]:
            status, body = await ask(server, method, path, text if method != "GET" else None)
            return status, body["code"]

        assert await code("POST", "/channels/1/messages") == (404, 10003)
        assert await code("PATCH", f"{messages}/1") == (404, 10008)
        assert await code("PATCH", f"{messages}/{theirs.id}") == (403, 50005)
        assert await code("DELETE", f"{messages}/{theirs.id}") == (403, 50013)
        assert await code("POST", "/interactions/1/nonsense/callback") == (404, 10062)
        assert await code("GET", "/nowhere") == (404, 0)
        general.deny(Can.SEND_MESSAGES)
        assert await code("POST", messages) == (403, 50013)
        general.deny(Can.VIEW_CHANNEL)
        assert await code("POST", messages) == (403, 50001)
        server.delete_channel(general)
        assert await code("POST", messages) == (404, 10003)
        assert (await ask(server, "GET", "/users/@me", token="wrong"))[0] == 401
        assert server.limits.invalid == 5


async def test_a_second_response_to_an_interaction_is_refused() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:

            @bot.tree.command(description="Answer")
            async def once(interaction: discord.Interaction) -> None:
                await interaction.response.send_message("one")

            await bot.tree.sync()
            answer = await ana.slash("once", channel=general)
            body = {"type": 4, "data": {"content": "two"}}
            status, said = await ask(server, "POST", f"/interactions/{answer.id}/{answer.token}/callback", body)
            assert (status, said["code"]) == (400, 40060)
            assert answer.text == "one"


async def test_posts_and_edits_have_buckets_of_their_own_which_the_client_keeps_to() -> None:
    async with FakeDiscord() as server:
        general, other = server.text_channel("general"), server.text_channel("other")
        server.limits.set(f"POST {POST}", 3, 0.4)
        server.limits.set(f"PATCH {EDIT}", 3, 0.4)
        async with running(server) as bot:
            began = time.monotonic()
            sent = await place(bot, general.id).send("0")
            for number in range(1, 5):
                await sent.edit(content=str(number))
            took = time.monotonic() - began
            await place(bot, other.id).send("elsewhere")
            assert took >= 0.4, "the fourth edit had to wait"
            assert server.rate_limited == 0
            assert [version.content for version in general.messages[0].versions] == list("01234")


async def test_a_429_is_waited_for_and_other_channels_flow() -> None:
    async with FakeDiscord() as server:
        general, other = server.text_channel("general"), server.text_channel("other")
        async with running(server) as bot:
            await place(bot, other.id).send("warm")
            server.limits.exhaust(f"POST {POST}", general.id, 0.5)
            await place(bot, general.id).send("late")
            assert server.rate_limited == 1
            waited = general.messages[0].created_at - next(call.at for call in server.calls if call.status == 429)
            assert waited >= 0.49
            server.limits.pause_all(0.5)
            await place(bot, other.id).send("later")
            assert server.rate_limited == 2
            assert server.log.count("POST", POST, status=200) == 3
            assert server.log.count("POST", POST, status=429, channel=other.id) == 1


async def test_a_post_that_gets_502_once_is_there_once_whether_or_not_it_was_applied() -> None:
    async with FakeDiscord() as server:
        general = server.text_channel("general")
        async with running(server) as bot:
            for text, applied in (("first", False), ("second", True)):
                fault = server.faults.answer("POST", POST, status=502, applied=applied)
                await place(bot, general.id).send(text)
                assert fault.hits == 1
        assert [message.content for message in general.messages] == ["first", "second"]
        assert server.log.count("POST", POST) == 4


async def test_a_nonce_is_remembered_for_minutes_and_not_shown_later() -> None:
    async with FakeDiscord() as server:
        general = server.text_channel("general")
        path, body = f"/channels/{general.id}/messages", {"content": "x", "nonce": "one", "enforce_nonce": True}
        first = (await ask(server, "POST", path, body))[1]
        second = (await ask(server, "POST", path, body))[1]
        assert (first["id"], first["nonce"]) == (second["id"], "one")
        server.clock.advance(200)
        await ask(server, "POST", path, body)
        assert len(general.messages) == 2
        assert all("nonce" not in message for message in (await ask(server, "GET", path))[1])


async def test_answers_can_be_dropped_delayed_and_held_in_one_channel_only() -> None:
    async with FakeDiscord() as server:
        general, other = server.text_channel("general"), server.text_channel("other")
        server.faults.drop("POST", POST, applied=True, channel=general.id)
        async with running(server) as bot:
            await place(bot, other.id).send("not meant")
            with pytest.raises(aiohttp.ClientError):
                await place(bot, general.id).send("arrived, but who knows")
            assert [message.content for message in general.messages] == ["arrived, but who knows"]
            assert server.calls[-1].status == 0
            server.faults.answer("PATCH", EDIT, status=403, code=50013)
            with pytest.raises(discord.Forbidden):
                await place(bot, general.id).get_partial_message(int(general.messages[0].id)).edit(content="no")
            frozen = server.faults.freeze("POST", POST, applied=False)
            sending = bot.loop.create_task(place(bot, general.id).send("held"))
            await server.until(lambda: frozen.hits)
            assert len(general.messages) == 1
            frozen.release()
            await sending
            server.faults.delay("POST", POST, seconds=0.2)
            await place(bot, general.id).send("slow")
            assert server.calls[-1].seconds >= 0.2


async def test_history_is_read_from_every_side() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        said = [await ana.says(general, str(number)) for number in range(9)]
        server.limits.set(f"GET {POST}", 50, 1)
        async with running(server) as bot:
            there, middle = place(bot, general.id), discord.Object(int(said[4].id))

            async def read(**options: Any) -> str:
                return "".join([message.content async for message in there.history(**options)])

            assert await read() == "876543210"
            assert await read(limit=2) == "87"
            assert await read(after=middle, limit=2) == "56"
            assert await read(before=middle, limit=2) == "32"
            assert await read(around=middle, limit=3) == "543"
            assert (await ask(server, "GET", f"/channels/{general.id}/messages?limit=101"))[0] == 400


@pytest.mark.parametrize(
    ("content", "allowed", "expected"),
    [
        ("<@1> <@!2> <@&3> @here", None, Pings(frozenset("129"), frozenset("3"), True)),
        ("<@1> <@&3> @everyone", {"parse": []}, Pings()),
        ("<@1> <@2>", {"parse": [], "users": ["2"]}, Pings(frozenset("2"))),
        ("hi", {"parse": [], "replied_user": True}, Pings(frozenset("9"))),
        ("`<@1>` ```\n@everyone\n```", {"parse": ["users", "everyone"]}, Pings()),
        ("``` @everyone", {"parse": ["everyone"]}, Pings(everyone=True)),
    ],
)
def test_pings_follow_the_allowed_mentions(content: str, allowed: dict[str, object] | None, expected: Pings) -> None:
    assert evaluate(content, allowed, replied_to="9") == expected
