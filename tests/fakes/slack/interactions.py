"""What people ask of the app at once (commands, buttons, shortcuts), and the answers through response_url.

In: gestures of people, and posts to response_url. Out: `Interaction`s with the answers that somebody sees. A response_url
lives 30 minutes and takes 5 posts; a trigger_id lives 3 seconds and is good for one view.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.fakes.slack import reading
from tests.fakes.slack.asks import Ask, SlackError
from tests.fakes.slack.clock import Changes
from tests.fakes.slack.log import Ack
from tests.fakes.slack.messages import Content, content
from tests.fakes.slack.payloads import TEAM_ID
from tests.fakes.slack.state import Channel, Json, Message, User, Version
from tests.fakes.slack.world import World

if TYPE_CHECKING:
    from tests.fakes.slack.views import View

URL_LIFE, URL_USES = 1800.0, 5
TRIGGER_LIFE = 3.0


@dataclass(eq=False)
class Interaction:
    """One command, press, shortcut or submission. `messages` are the answers to it, `views` what was opened for it."""

    token: str
    trigger_id: str
    user: User
    channel: Channel | None
    created: float
    changes: Changes
    source: Message | None = None
    ack: Ack | None = None
    uses: int = 0
    exchanged: bool = False
    messages: list[Message] = field(default_factory=list)
    views: "list[View]" = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Slack says that the app did not respond (in time)."""
        return self.ack is None

    @property
    def payload(self) -> Json | None:
        """What came with the ack."""
        return self.ack.payload if self.ack is not None else None

    @property
    def text(self) -> str:
        """What the newest answer shows, '' if there is none."""
        return self.messages[-1].shown if self.messages else ""

    @property
    def ephemeral(self) -> bool:
        """There are answers, and only the asker sees them."""
        return bool(self.messages) and all(message.ephemeral for message in self.messages)

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Wait until something is true of the fake; fails after `timeout` seconds."""
        await self.changes.until(condition, timeout)

    async def answered(self, timeout: float = 5.0) -> str:  # noqa: ASYNC109 -- reads well
        """Wait for an answer; its text."""
        await self.changes.until(lambda: self.text, timeout)
        return self.text


class Desk:
    """All interactions that there were. `ask` (kind, payload, what) is set by Socket Mode; `commands` are known."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.all: dict[str, Interaction] = {}
        self.commands: set[str] = {"/inhouse"}

    def new(self, user: User, channel: Channel | None, source: Message | None = None) -> Interaction:
        """An interaction that begins."""
        now = self.world.clock.now()
        trigger = f"{int(now * 1000)}.{secrets.randbelow(10**10)}.{secrets.token_hex(16)}"
        made = Interaction(secrets.token_urlsafe(18), trigger, user, channel, now, self.world.changes, source)
        self.all[made.token] = made
        return made

    def url(self, interaction: Interaction) -> str:
        """Its response_url."""
        return f"{self.world.base_url}actions/{TEAM_ID}/{interaction.token}"

    def exchange(self, trigger_id: str) -> Interaction:
        """The interaction of a trigger, which is used up by this."""
        found = next((each for each in self.all.values() if each.trigger_id == trigger_id), None)
        if found is None:
            raise SlackError("invalid_trigger_id")
        if found.exchanged:
            raise SlackError("exchanged_trigger_id")
        if self.world.clock.now() - found.created > TRIGGER_LIFE:
            raise SlackError("expired_trigger_id")
        found.exchanged = True
        return found

    def acknowledged(self, interaction: Interaction) -> None:
        """The ack came; what a command's ack says is an answer like any."""
        if interaction.payload and interaction.source is None and interaction.channel is not None:
            arguments = interaction.payload
            if "text" in arguments or "blocks" in arguments:
                self._answer(interaction, Ask("ack", arguments))

    def respond(self, ask: Ask) -> Json:
        """A post to response_url. Errors have the HTTP statuses 404 (used or expired) and 400."""
        interaction = self.all.get(ask.path["token"])
        if interaction is None:
            raise SlackError("invalid_token", status=404)
        if self.world.clock.now() - interaction.created > URL_LIFE:
            raise SlackError("expired_url", status=404)
        if interaction.uses >= URL_USES:
            raise SlackError("used_url", status=404)
        try:
            self._answer(interaction, ask)
        except SlackError as error:
            raise SlackError(error.error, status=400) from None
        interaction.uses += 1
        return {}

    def _answer(self, interaction: Interaction, ask: Ask) -> None:
        source, channel = interaction.source, interaction.channel
        assert channel is not None, "an interaction without a channel has no response_url"
        if ask.flag("delete_original"):
            if source is not None:
                self.world.delete(source)
            return
        said = content(ask)
        if ask.flag("replace_original") and source is not None:
            self._replace(source, said)
            return
        kind = ask.text("response_type") or "ephemeral"
        if kind not in ("ephemeral", "in_channel"):
            raise SlackError("invalid_arguments", f"unknown response_type {kind}")
        unfurl = kind == "in_channel" and (ask.flag("unfurl_links", True) or ask.flag("unfurl_media", True))
        message = self.world.add(
            channel,
            self.world.bot,
            said.text,
            blocks=said.blocks or [],
            thread_ts=ask.text("thread_ts"),
            to=interaction.user if kind == "ephemeral" else None,
            unfurls=reading.links(said.text, said.blocks or []) if unfurl else (),
        )
        interaction.messages.append(message)

    def _replace(self, source: Message, said: Content) -> None:
        found = reading.mentions(said.text, said.blocks or [])
        self.world.change(source, Version(said.text, self.world.clock.now(), said.blocks or [], found))
