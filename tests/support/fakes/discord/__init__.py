"""A fake Discord on real TLS sockets: the real discord.py connects to it, and tests act as its users.

    async with FakeDiscord(message_content=True) as server:
        client = discord.Client(intents=..., connector=server.connector())    # real host names; the token: server.token
        ana = server.user("ana")                       # can=Can.MANAGE_CHANNELS: a moderator; bot=True: another bot
        general = server.text_channel("general")       # server.dm(ana), server.thread(general, "plans")
        question = await ana.says(general, "hello", mention=True, reply_to=None, files={"a.py": b"..."})
        await general.until(lambda: general.messages and general.messages[-1].content == "hi")
        await ana.edits(question, "hello!"); await ana.deletes(question); await ana.reacts(answer, "👍")
        answer = await ana.slash("temperature", channel=general, value=0.2)           # an Interaction
        answer.text, answer.ephemeral, answer.deferred, answer.messages, answer.failed, await answer.answered()
        choices = await ana.autocompletes("model", "name", "ph", channel=general)     # [{"name": ..., "value": ...}]
        click = await ana.clicks(message, "Stop")      # a button's label or custom_id
        menu = await ana.uses("Answer this", on=question)                             # a context-menu command
        thread = await ana.opens_thread(general, "plans", on=question)

All ids are strings, as on the wire. Every change of state wakes `until(condition, timeout=5)`, which fails with a dump
of all channels.

Channel: id, name, mention, messages (the bot's, oldest first), history (all authors'), typing (times),
deny(Can.SEND_MESSAGES) and allow(...) (for the bot, or for a user), until(...).

Message: id, content, author, created_at, versions (content, at, pings, previews, embeds, components, allowed_mentions:
the post and every edit), pings and previews (of all versions together), buttons, files (name -> bytes), embeds, flags,
reference (the message replied to), thread, reactions, ephemeral, deleted. Pings are the users and roles that the text
notifies under its allowed_mentions, as if the bot had every permission; previews are the links that would be unfurled.

server: bot (id, name, mention), application_id, guild, channel(id), commands (as registered), presences (of the bot),
calls and frames (every REST call and gateway frame), log.count(method, route, status, channel), rate_limited (number of
429s), pings (of all the bot's messages), until(...), delete_channel(channel), unfurl(message) (an update by Discord
itself, no edit), redeliver(message), portal(message_content=..., members=...) (the privileged intents),
also_in(servers) (number of further servers), clock.advance(seconds) (ages deadlines, nonces and sessions).

server.gateway: reconnect() (op 7), invalidate(resumable=False) (op 9), close(code), abort(), freeze(answer_close=True),
thaw(), drop_acks, forget_sessions(), refuse_connections(times), refuse_identify(code, times), send(op, event, data),
heartbeat_interval, identifies and resumes (their times), session_start.leave(remaining, reset_after), its shards
and at_once (what GET /gateway/bot tells), online (the sessions connected now, with their shards).

server.limits: set("POST /channels/{channel_id}/messages", limit, seconds), exhaust(route, channel_id, seconds, scope),
pause_all(seconds) (a global 429), invalid (number of 401, 403 and 429 responses).

server.faults: answer("POST", "/channels/{channel_id}/messages", 502, applied=False, channel=None, times=1, skip=0),
drop(method, route, applied=True), delay(method, route, seconds), freeze(method, route) (no response until .release());
each returns the Fault, whose `hits` counts.

Another process connects through `tests.support.fakes.connect_proxy.ConnectProxy(server.port)` and
`server.write_ca(path)`.
"""

from tests.support.fakes.discord.bits import Can
from tests.support.fakes.discord.interactions import Interaction
from tests.support.fakes.discord.people import Person
from tests.support.fakes.discord.server import FakeDiscord
from tests.support.fakes.discord.state import Channel, Guild, Message

__all__ = ["Can", "Channel", "FakeDiscord", "Guild", "Interaction", "Message", "Person"]
