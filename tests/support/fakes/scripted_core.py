"""A Core with a script instead of a model: it takes events as the service does and answers through the adapter.

In: what it will say, one script a question. Out: replies as the service makes them (growing frames, then a final one),
and `events`, all that it was handed.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bot.platforms.adapter import Adapter
from bot.types.commands import find
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
    """One answer. `chunks` come one after another; `until_stopped` waits after them for a /stop."""

    chunks: Sequence[str]
    reason: FinishReason = FinishReason.STOP
    usage: Usage | None = USAGE
    error: str = ""  # stands below the text when the answer is final
    wait_line: str = ""
    until_stopped: bool = False
    outcome: Outcome | Exception | None = None  # instead of any answer


@dataclass(slots=True)
class ScriptedCore:
    """Answers questions by the scripts, in order, and commands with a Notice that names them."""

    adapter: Adapter
    scripts: deque[Script] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)
    notices: dict[str, Outcome] = field(default_factory=dict)
    writing: asyncio.Event = field(default_factory=asyncio.Event)  # a script is at its end, or waits for /stop
    deaf: bool = False  # a /stop has no effect
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def says(self, *chunks: str, **how: object) -> None:
        """The next question gets this answer."""
        self.scripts.append(replace(Script(chunks), **how))  # type: ignore[arg-type]  # the fields of Script

    async def handle(self, event: Event) -> Outcome:
        """Take an event. The answer begins before this returns as often as after it, as in the service."""
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
        """Two models."""
        assert find(command)
        names = {"smollm2": "smollm2 (fits)", "phi-4": "phi-4 (won't fit)"}
        return [Choice(label, name) for name, label in names.items() if name.startswith(prefix)]

    async def following(self, key: ConversationKey) -> bool:
        """Nobody said anything before."""
        return False

    async def catch_up(self, platform: str) -> None:
        """Nothing was missed."""

    def presence(self) -> str:
        """Ready."""
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
            growing = replace(reply, committed=text[:-1], tail=text[-1:], platform_id=posted or None)
            if posted:
                await self.adapter.update(growing)
            else:
                posted = await self.adapter.post(growing)
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
