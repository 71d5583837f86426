"""Tests the fake Discord with the real discord.py: messages, buttons, commands, threads, files."""

import io

import discord
import pytest
from discord import app_commands

from tests.support.fakes.discord import Can, FakeDiscord
from tests.support.fakes.echo_bot import Buttons, EchoBot, running


def messageable(bot: EchoBot, channel_id: str) -> discord.TextChannel:
    found = bot.get_channel(int(channel_id))
    assert isinstance(found, discord.TextChannel)
    return found


async def test_a_mention_is_read_and_answered_as_a_reply_without_pings() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            question = await ana.says(general, f"echo hi {ana.mention} @everyone", mention=True)
            await general.until(lambda: general.messages)
            answer = general.messages[0]
            assert answer.content == f"hi {ana.mention} @everyone"
            assert answer.reference is question
            assert not server.pings
            assert bot.user in bot.seen[0].mentions
            assert isinstance(bot.seen[0].author, discord.Member)


async def test_a_careless_post_and_a_careless_edit_are_seen_to_ping() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            place = messageable(bot, general.id)
            sent = await place.send("hello", allowed_mentions=discord.AllowedMentions.none())
            assert not general.messages[0].pings
            await sent.edit(content=f"{ana.mention} @here", allowed_mentions=discord.AllowedMentions.all())
            assert general.messages[0].pings.users == {ana.id}
            assert server.pings.everyone
            assert [version.content for version in general.messages[0].versions] == ["hello", f"{ana.mention} @here"]


async def test_links_grow_previews_unless_they_are_suppressed_bracketed_or_code() -> None:
    async with FakeDiscord() as server:
        general = server.text_channel("general")
        async with running(server) as bot:
            place = messageable(bot, general.id)
            await place.send("see https://one.example/a and <https://two.example> and `https://three.example`")
            await place.send("see https://one.example/a", suppress_embeds=True)
            await place.send("```\nhttps://open.example")
        assert [message.previews for message in general.messages] == [
            ("https://one.example/a",),
            (),
            ("https://open.example",),
        ]


async def test_buttons_answer_and_go_on_answering_after_a_restart() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            await messageable(bot, general.id).send("writing...", view=Buttons())
            thanks = await ana.clicks(general.messages[0], "Good")
            assert (thanks.text, thanks.ephemeral) == ("thanks", True)
            assert len(general.messages) == 1, "an ephemeral answer is in no channel"
        async with running(server):
            stopped = await ana.clicks(general.messages[0], "stop:1")
            assert not stopped.failed
            assert general.messages[0].content == "stopped"
            assert not general.messages[0].buttons
            with pytest.raises(AssertionError, match="no button 'Stop'"):
                await ana.clicks(general.messages[0], "Stop")


async def test_commands_are_synced_given_deferred_and_completed() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            add_commands(bot)
            assert str(bot.application_id) == server.application_id
            first = await bot.tree.sync()
            second = await bot.tree.sync()
            assert [each.id for each in first] == [each.id for each in second], "an overwrite keeps ids"

            shown = await ana.slash("temperature", channel=general, value=0.2)
            assert (shown.text, shown.ephemeral) == ("0.2 for ana", True)
            thinking = await ana.slash("slow", channel=general, name="phi-4")
            assert thinking.deferred
            assert await thinking.answered() == "loaded phi-4"
            assert [message.content for message in general.messages] == ["loaded phi-4"], "it replaces 'thinking...'"
            assert await ana.autocompletes("slow", "name", "ph", channel=general) == [{"name": "ph!", "value": "ph"}]
            question = await ana.says(general, "why?")
            assert (await ana.uses("Answer this", on=question)).text == "about why?"
            with pytest.raises(AssertionError, match="out of range"):
                await ana.slash("temperature", channel=general, value=2.5)


async def test_a_first_response_after_three_seconds_and_a_follow_up_after_fifteen_minutes_are_refused() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        refused: list[int] = []
        async with running(server) as bot:

            @bot.tree.command(description="Answer too late")
            async def late(interaction: discord.Interaction) -> None:
                server.clock.advance(3.5)
                with pytest.raises(discord.NotFound) as error:
                    await interaction.response.send_message("hm")
                refused.append(error.value.code)

            @bot.tree.command(description="Go on too long")
            async def long(interaction: discord.Interaction) -> None:
                await interaction.response.send_message("one")
                await interaction.followup.send("two")
                server.clock.advance(901)
                with pytest.raises(discord.HTTPException) as error:
                    await interaction.followup.send("three")
                refused.append(error.value.code)

            await bot.tree.sync()
            assert (await ana.slash("late", channel=general)).failed
            answer = await ana.slash("long", channel=general)
            await server.until(lambda: len(refused) == 2)
        assert refused == [10062, 50027]
        assert [message.content for message in answer.messages] == ["one", "two"]


async def test_without_the_content_intent_only_what_is_meant_for_the_bot_can_be_read() -> None:
    async with FakeDiscord(message_content=False) as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server, content=False) as bot:
            assert not bot.application_flags.gateway_message_content_limited
            await ana.says(general, "just talk", files={"a.txt": b"x"})
            asked = await ana.says(general, "for you", mention=True)
            await ana.says(server.dm(ana), "in private")
            await server.until(lambda: len(bot.seen) == 3)
            assert bot.texts() == ["", asked.content, "in private"]
            assert not bot.seen[0].attachments
            assert [message.content async for message in messageable(bot, general.id).history()] == [asked.content, ""]
            with pytest.raises(discord.PrivilegedIntentsRequired):
                async with running(server, content=True):
                    pass


async def test_files_travel_both_ways() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            await ana.says(general, "look", files={"notes.md": "ä".encode()})
            await server.until(lambda: bot.seen)
            came = bot.seen[0].attachments[0]
            assert (came.filename, await came.read()) == ("notes.md", "ä".encode())
            long = discord.File(__file__, filename="answer.md")
            await messageable(bot, general.id).send("the beginning", file=long, view=Buttons())
            for size in (11, 26):
                big = discord.File(io.BytesIO(bytes(size * 1024 * 1024)), filename="big")
                with pytest.raises(discord.HTTPException) as error:
                    await messageable(bot, general.id).send("too much", file=big)
                assert error.value.code == 40005
            assert general.messages[0].files["answer.md"].startswith(b'"""Tests the fake Discord')


async def test_threads_are_opened_by_people_and_by_the_bot_and_start_from_their_message() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            question = await ana.says(general, "a long story")
            thread = await ana.opens_thread(general, "the story", on=question)
            await ana.says(thread, "echo in here")
            await thread.until(lambda: thread.messages)
            assert isinstance(bot.seen[-1].channel, discord.Thread)
            assert thread.history[0].reference is question
            asked = await ana.says(general, "another")
            await server.until(lambda: bot.seen[-1].content == "another")
            own = await bot.seen[-1].create_thread(name="mine")
            await own.send("welcome")
            assert asked.thread is not None
            assert asked.thread.messages[-1].content == "welcome"
            assert server.channel(str(own.id)) is asked.thread


async def test_edits_deletions_reactions_and_unfurled_links_arrive_as_what_they_are() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            said = await ana.says(general, "helo https://example.com")
            server.unfurl(said)
            await ana.suppresses_embeds(said)
            await ana.edits(said, "hello")
            await server.until(lambda: len(bot.edits) == 3)
            assert [event.message.edited_at is not None for event in bot.edits] == [False, False, True]
            gone = bot.wait_for("raw_message_delete", timeout=5)
            reacted = bot.wait_for("raw_reaction_add", timeout=5)
            await ana.reacts(said, "👍")
            assert (await reacted).user_id == int(ana.id)
            await ana.deletes(said)
            assert (await gone).message_id == int(said.id)
            await messageable(bot, general.id).typing()
            assert len(general.typing) == 1


async def test_moderators_are_known_by_their_permissions() -> None:
    async with FakeDiscord() as server:
        general = server.text_channel("general")
        boss = server.user("boss", can=Can.MANAGE_CHANNELS)
        async with running(server) as bot:
            add_commands(bot)
            await bot.tree.sync()
            await boss.slash("temperature", channel=general, value=1.0)
            mods = server.role("mods")
            boss.gets(mods)
            await boss.says(general, f"hello {mods.mention}")
            await server.until(lambda: bot.seen)
            author = bot.seen[0].author
            assert isinstance(author, discord.Member)
            assert [role.id for role in bot.seen[0].role_mentions] == [int(mods.id)]
            assert "mods" in [role.name for role in author.roles]
            assert messageable(bot, general.id).permissions_for(author).manage_channels
            assert not messageable(bot, general.id).permissions_for(author).manage_guild


def add_commands(bot: EchoBot) -> None:
    """Registers the commands that the tests use."""

    @bot.tree.command(description="Set the temperature")
    async def temperature(interaction: discord.Interaction, value: app_commands.Range[float, 0, 2]) -> None:
        await interaction.response.send_message(f"{value} for {interaction.user.name}", ephemeral=True)

    @bot.tree.command(description="Load a model")
    async def slow(interaction: discord.Interaction, name: str) -> None:
        await interaction.response.defer(thinking=True)
        await interaction.followup.send(f"loaded {name}")

    @slow.autocomplete("name")
    async def names(interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        return [app_commands.Choice(name=f"{typed}!", value=typed)]

    @bot.tree.context_menu(name="Answer this")
    async def answer_this(interaction: discord.Interaction, message: discord.Message) -> None:
        await interaction.response.send_message(f"about {message.content}")
