"""A scripted Core: takes events like the service and answers through the adapter.

Each question uses one script. Replies are shown like the service's (partial ones, then a final one); `events` records
all events.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bot.platforms.adapter import Adapter
from bot.types.commands import find_command
from bot.types.messages import (
    Accepted,
    Choice,
    ConversationKey,
    Event,
    FinishReason,
    IncomingCommand,
    IncomingMessage,
    Notice,
    Outcome,
    Reply,
    Usage,
)

USAGE = Usage(
    prompt_tokens=30,
    cached_tokens=0,
    generated_tokens=90,
    queue_s=0.1,
    prefill_s=0.2,
    decode_s=4.0,
    context_window=8192,
    dropped_turns=0,
)


@dataclass(frozen=True, slots=True)
class Script:
    """One answer. Shows `chunks` one after another; `until_stopped` then waits for a /stop."""

    chunks: Sequence[str]
    reason: FinishReason = FinishReason.STOP
    usage: Usage | None = USAGE
    error: str = ""  # appended to the final text
    wait_line: str = ""
    until_stopped: bool = False
    outcome: Outcome | Exception | None = None  # returned or raised instead of an answer


@dataclass(slots=True)
class ScriptedCore:
    """Answers questions by the scripts, in order, and commands with a Notice that names them."""

    adapter: Adapter
    scripts: deque[Script] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)
    notices: dict[str, Outcome] = field(default_factory=dict)
    writing: asyncio.Event = field(default_factory=asyncio.Event)  # set when a script has ended or waits for /stop
    deaf: bool = False  # ignores /stop
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def says(self, *chunks: str, **how: object) -> None:
        """Scripts the answer to the next question."""
        self.scripts.append(replace(Script(chunks), **how))  # type: ignore[arg-type]  # the fields of Script

    async def handle(self, event: Event) -> Outcome:
        """Takes an event. As in the service, the answer may start before or after this returns."""
        self.events.append(event)
        if isinstance(event, IncomingCommand) and event.name not in ("ask", "regenerate", "continue"):
            if event.name == "stop" and not self.deaf:
                self.stopped.set()
            return self.notices.get(event.name, Notice(f"**{event.name}** {event.args}"))
        assert isinstance(event, IncomingMessage | IncomingCommand)
        script = self.scripts.popleft()
        if isinstance(script.outcome, Exception):
            raise script.outcome
        if script.outcome:
            return script.outcome
        request_id = f"request-{len(self.events)}"
        self.tasks.append(asyncio.create_task(self._answer(script, request_id, event)))
        for _ in range(len(self.events) % 3):
            await asyncio.sleep(0)
        return Accepted(request_id)

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        """Offers two models."""
        assert find_command(command)
        names = {"smollm2": "smollm2 (fits)", "phi-4": "phi-4 (won't fit)"}
        return [Choice(label, name) for name, label in names.items() if name.startswith(prefix)]

    async def following(self, key: ConversationKey) -> bool:
        """Reports no earlier conversation."""
        return False

    async def catch_up(self, platform: str) -> None:
        """Does nothing."""

    def presence(self) -> str:
        """A fixed model name."""
        return "smollm2"

    async def _answer(self, script: Script, request_id: str, event: IncomingMessage | IncomingCommand) -> None:
        question = event.message_id if isinstance(event, IncomingMessage) else event.event_id
        asker = event.author if isinstance(event, IncomingMessage) else event.actor
        reply = Reply(f"reply-{request_id}", request_id, event.key, 0, question, asker, committed="")
        await self.adapter.status(event.key, script.wait_line)
        posted = ""
        text = ""
        for chunk in script.chunks:
            text += chunk
            partial = replace(reply, committed=text[:-1], tail=text[-1:], platform_id=posted or None)
            if posted:
                await self.adapter.update(partial)
            else:
                posted = await self.adapter.post(partial)
            await asyncio.sleep(0)
        self.writing.set()
        if script.until_stopped:
            await self.stopped.wait()
        text = "\n\n".join(filter(None, [text, script.error]))
        final = replace(reply, committed=text, final=True, finish_reason=script.reason, usage=script.usage)
        if posted:
            await self.adapter.update(replace(final, platform_id=posted))
        else:
            await self.adapter.post(final)
