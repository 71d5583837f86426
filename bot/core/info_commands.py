"""The commands that show information: /status, /why and /export."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.generation.user_messages import counted
from bot.generation.worker import Worker
from bot.models.hardware import describe_hardware
from bot.models.installed_models import InstalledModels
from bot.storage import Storage, StoredTurn
from bot.types.display_names import as_code, one_line
from bot.types.engine import Engine, EngineStats, LoadedModel, ModelServers
from bot.types.errors import EngineError
from bot.types.messages import Attachment, IncomingCommand, Notice, Outcome, Refused, Role

EXPORT_TURNS = 100_000


class InfoCommands:
    """Handles the commands that show information."""

    def __init__(
        self,
        storage: Storage,
        conversations: Conversations,
        queue: RequestQueue,
        worker: Worker,
        engine: Engine,
        installed_models: InstalledModels,
        hosts: Callable[[], str],
    ) -> None:
        """hosts: a phrase about all hosts, '' for a single one."""
        self._storage, self._conversations, self._queue = storage, conversations, queue
        self._worker, self._engine = worker, engine
        self._installed_models, self._hosts = installed_models, hosts

    async def status(self, event: IncomingCommand, _: str | None) -> Outcome:
        """/status: show model, hardware, memory, speed, queue."""
        lines = []
        model, loading = self._worker.loader.loaded, self._worker.loader.loading
        if loading is not None:
            lines.append(f"loading {loading.model}, {loading.progress.fraction:.0%}")
        elif model is None:
            lines.append("no model is loaded" if not self._hosts() else "no model is loaded on this host")
        else:
            lines += await self._model_lines(model)
        if isinstance(self._engine, ModelServers):
            lines += _server_lines(self._engine)
        hardware = self._installed_models.hardware
        if hardware is not None:
            lines += describe_hardware(hardware).splitlines()
        writing, waiting = len(self._queue.running()), len(self._queue.waiting())
        lines.append(f"queue: {counted(writing, 'answer')} being written, {waiting} waiting")
        if hosts := self._hosts():
            lines.append(hosts)
        if self._worker.loader.losses:
            lines.append(f"the model's process was restarted {counted(self._worker.loader.losses, 'time')}")
        return Notice("\n".join(f"- {line}" for line in lines))

    async def why(self, event: IncomingCommand, _: str | None) -> Outcome:
        """/why: show the turns of the last prompt, their share of the context window, and what did not fit."""
        last = await self._conversations.last_question(event.key)
        if last is None:
            return Refused("No question has been asked here yet.")
        if last.usage is None:
            return Refused("The last answer has no record of its prompt: it failed, or it is still being written.")
        turns = await self._conversations.turns_read(event.key, last.request.message_id)
        usage = last.usage
        share = usage.prompt_tokens / usage.context_window
        cached = f" ({usage.cached_tokens:,} were cached)" if usage.cached_tokens else ""  # some servers do not tell
        lines = [
            f"{last.request.model} read {usage.prompt_tokens:,} tokens, {share:.0%} of its window of "
            f"{usage.context_window:,}{cached}, and wrote {usage.generated_tokens:,}."
        ]
        if usage.defused:
            lines.append("In what it read, each control token was broken up by a character that is not visible.")
        if usage.dropped_turns:
            lines.append(f"The oldest {counted(usage.dropped_turns, 'message')} did not fit and were left out.")
        if usage.dropped_pictures:
            lines.append(f"The oldest {counted(usage.dropped_pictures, 'picture')} did not fit and were left out.")
        lines += [
            "It read:",
            *(f"- {as_code(_speaker(turn))}: {as_code(turn.text)}" for turn in turns[usage.dropped_turns :]),
        ]
        return Notice("\n".join(lines))

    async def export(self, event: IncomingCommand, value: str | None) -> Outcome:
        """/export: return the conversation as a Markdown or JSON file, or as Markdown with the stored thoughts."""
        turns = await self._storage.history.turns(event.key, limit=EXPORT_TURNS, hidden=True)
        if not turns:
            return Refused("No messages of this conversation are stored.")
        if value == "json":
            file = Attachment("conversation.json", json.dumps(list(map(asdict, turns)), ensure_ascii=False, indent=2))
        else:
            thoughts = await self._storage.outbox.all_thoughts(event.key) if value == "thoughts" else {}
            file = Attachment("conversation.md", as_markdown(turns, thoughts))
        return Notice(f"Here are the {counted(len(turns), 'message')} of this conversation.", attachment=file)

    async def _model_lines(self, model: LoadedModel) -> list[str]:
        how = "many answers at once" if model.batching else "one answer at a time"
        what = ", ".join([how, *model.capabilities.abilities])
        lines = [f"model: {model.name} on {model.device}, {model.dtype}, {model.context_window:,} tokens, {what}"]
        try:
            stats = await self._engine.stats()
        except EngineError as error:
            return [*lines, str(error)]
        kept = [name for name in stats.resident if name != model.name]
        if kept:
            lines.append(f"also in memory: {', '.join(kept)}")
        memory = [] if isinstance(self._engine, ModelServers) else [_memory(model, stats)]
        return [*lines, *memory, f"speed: {stats.tokens_per_s:.1f} tokens/s in the last ten seconds"]


def as_markdown(turns: Sequence[StoredTurn], thoughts: Mapping[str, str] = MappingProxyType({})) -> str:
    """Format a conversation as Markdown. thoughts: those of answers, by request id."""
    parts = []
    for turn in turns:
        parts.append(f"**{one_line(_speaker(turn))}**")
        if thought := thoughts.get(turn.request_id or ""):
            parts += ["*Thoughts:*", thought, "*Answer:*"]
        parts.append(turn.text)
    return "\n\n".join(parts) + "\n"


def _speaker(turn: StoredTurn) -> str:
    return "Inhouse" if turn.role is Role.ASSISTANT else turn.author or "unknown"


def _server_lines(engine: ModelServers) -> list[str]:
    """One line for each server, without its address."""
    lines = []
    for number, server in enumerate(engine.states, 1):
        what = "cannot be used now" if server.problem else f"{counted(server.running, 'answer')} being written"
        lines.append(f"server {number}: {server.kind}, {what}, {counted(server.failures, 'failure')}")
    return lines


def _memory(model: LoadedModel, stats: EngineStats) -> str:
    parts = [f"weights {model.weights_mb:,} MB", f"process {stats.resident_mb:,} MB"]
    if model.kv_cache_mb:
        used = f", {stats.cache_used:.0%} used" if stats.cache_used is not None else ""
        parts.append(f"KV cache {model.kv_cache_mb:,} MB for {model.kv_cache_tokens:,} tokens{used}")
    if stats.gpu_total_mb:
        parts.append(f"GPU {stats.gpu_used_mb:,} of {stats.gpu_total_mb:,} MB")
    return f"memory: {', '.join(parts)}"
