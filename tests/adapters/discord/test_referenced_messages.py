"""Tests which other messages a question brings along, through the real discord.py and a fake server."""

from bot.types.messages import (
    Attachment,
)
from tests.support.builders.discord_adapter import reply_to, run_discord_adapter
from tests.support.builders.picture_files import encoded, half_red


async def test_the_message_that_is_answered_comes_along_with_its_file() -> None:
    async with run_discord_adapter() as setup:
        theirs = await setup.ben.says(setup.general, "my program", files={"a.py": b"print(1)"})
        await setup.ana.says(setup.general, "what does it do?", mention=True, reply_to=theirs)
        (answered,) = (await setup.core.message(2)).context
        assert (answered.author.name, answered.text, answered.message_id) == ("ben", "my program", theirs.id)
        assert answered.attachments == (Attachment("a.py", "print(1)"),)
        assert not answered.addressed


async def test_messages_around_a_mention_come_along_where_that_is_set() -> None:
    async with run_discord_adapter(ambient=2) as setup:
        for word in ("one", "two", "three"):
            await setup.ben.says(setup.general, word)
        await setup.ana.says(setup.general, "what did he say?", mention=True)
        event = await setup.core.message(4)
        assert [each.text for each in event.context] == ["two", "three"]
        assert {each.key for each in event.context} == {event.key}


async def test_a_chain_of_replies_comes_along() -> None:
    async with run_discord_adapter() as setup:
        chain = [await setup.ben.says(setup.general, "the first")]
        for number in range(4):
            chain.append(await setup.ben.says(setup.general, f"reply {number}", reply_to=chain[-1]))
        await setup.ana.says(setup.general, "who is right?", mention=True, reply_to=chain[-1])
        event = await setup.core.message(6)
        assert event.reply_to == chain[-1].id
        assert [each.text for each in event.context] == ["reply 1", "reply 2", "reply 3"]
        assert [each.reply_to for each in event.context] == [each.id for each in chain[1:4]]


async def test_a_chain_ends_at_an_answer_of_the_bot_and_at_a_deleted_message() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi"))
        theirs = await setup.ben.says(setup.general, "wrong", reply_to=setup.general.messages[0])
        await setup.ana.says(setup.general, "is it?", mention=True, reply_to=theirs)
        event = await setup.core.message(3)
        assert [(each.text, each.reply_to) for each in event.context] == [("wrong", setup.general.messages[0].id)]
        last = await setup.ben.says(setup.general, "yes", reply_to=theirs)
        await setup.ben.deletes(theirs)
        await setup.ana.says(setup.general, "sure?", mention=True, reply_to=last)
        assert [each.text for each in (await setup.core.message(5)).context] == ["yes"]
        await setup.ana.says(setup.general, "and this?", mention=True, reply_to=theirs)
        assert (await setup.core.message(6)).context == ()


async def test_a_mention_alone_asks_what_it_replies_to_and_says_which_files_of_it_are_not_read() -> None:
    async with run_discord_adapter() as setup:
        theirs = await setup.ben.says(
            setup.general,
            "what is this?",
            files={"a.txt": b"x", "cat.png": encoded(half_red(), "PNG"), "b.pdf": b"%PDF\0"},
        )
        await setup.ana.says(setup.general, "", mention=True, reply_to=theirs)
        event = await setup.core.message(2)
        assert (event.text, event.reply_to) == ("", theirs.id)
        (target,) = event.context
        assert (target.message_id, target.text, target.attachments) == (
            theirs.id,
            "what is this?",
            (Attachment("a.txt", "x"),),
        )
        assert [each.name for each in target.pictures] == ["cat.png"]
        assert event.remark == "`b.pdf` is not a text file, so I could not read it."


async def test_a_mention_alone_in_a_thread_asks_its_last_message_or_the_one_that_it_starts_from() -> None:
    async with run_discord_adapter() as setup:
        story = await setup.ben.says(setup.general, "a long story")
        thread = await setup.ana.opens_thread(setup.general, "the story", on=story)
        await setup.ana.says(thread, "", mention=True)
        event = await setup.core.message(2)
        assert (event.reply_to, [each.text for each in event.context]) == (story.id, ["a long story"])
        said = await setup.ben.says(thread, "why is it long?", files={"a.txt": b"x"})
        await setup.adapter.post(reply_to(await setup.ana.says(thread, "hm", mention=True), "because"))
        await setup.ana.deletes(thread.history[-2])
        await setup.ana.says(thread, "", mention=True)
        event = await setup.core.message(5)
        assert event.reply_to == said.id
        assert [(each.text, each.attachments) for each in event.context] == [
            ("a long story", ()),
            ("why is it long?", (Attachment("a.txt", "x"),)),
        ]
        await setup.ana.says(setup.general, "", mention=True)
        assert (await setup.core.message(6)).reply_to == "", "in a channel, the last message is anybody's"


async def test_a_reply_to_the_first_message_of_a_thread_means_the_one_that_the_thread_starts_from() -> None:
    async with run_discord_adapter() as setup:
        story = await setup.ben.says(setup.general, "a long story", files={"a.txt": b"x"})
        thread = await setup.ana.opens_thread(setup.general, "the story", on=story)
        (first,) = thread.history
        assert first.content == ""
        await setup.ana.says(thread, "", mention=True, reply_to=first)
        event = await setup.core.message(2)
        assert event.reply_to == story.id
        assert [(each.text, each.attachments) for each in event.context] == [
            ("a long story", (Attachment("a.txt", "x"),))
        ]


async def test_the_first_post_of_a_forum_thread_comes_along() -> None:
    async with run_discord_adapter() as setup:
        forum = setup.server.text_channel("forum")
        forum.kind = 15
        async with run_discord_adapter(setup.server) as again:
            thread = setup.server.thread(forum, "a problem")
            first = await again.ben.says(thread, "it is broken")
            first.id = thread.id
            await again.ana.says(thread, "what can be done?", mention=True)
            event = await again.core.message(2)
            assert [each.text for each in event.context] == ["it is broken"]
