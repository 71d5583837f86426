"""Builds the requests for servers: the prompt as token ids or as messages, cut to the window, and the parameters.

Token ids are sent where the model's tokenizer is on this machine, the server takes ids, and its own tokenizer makes the
same ids of a sample. Then nothing in a text can become a control token, and the history is cut exactly. Models that
think get messages even so: their servers separate the thoughts in chats only.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from bot.engine.client.request_validation import GREEDY_BELOW
from bot.engine.remote.messages import Chat, Defuse, build_chat, defuse_forms, defuse_tokens
from bot.engine.remote.profiles import Continuation, Profile
from bot.engine.remote.prompt_client import NoTokenIds, PromptClient, Ready, TokenizerFiles
from bot.engine.remote.server import Server
from bot.types.engine import Capabilities, EngineRequest, ModelSource
from bot.types.messages import SamplingParams

log = logging.getLogger("inhouse.engine")

UNKNOWN_WINDOW = 4096
"""Context window, in tokens, where neither the catalog nor the server says one (Ollama's smallest default)."""
MARGIN = 0.9
"""Share of the window that prompts may take by estimate."""
NEAR = 0.7
"""From this share of the room for a prompt on, its tokens are counted."""


class RequestBuilder:
    """Builds requests for one model at a time. salts: keep the prefix caches of workspaces apart where a server can."""

    def __init__(self, *, salts: bool) -> None:
        self._salts = salts
        self._client: PromptClient | None = None
        self._tokenizer: Ready | None = None
        self._defuse: Defuse = defuse_forms
        self._ratio = 1.0  # measured tokens by estimated tokens
        self._refused_efforts: dict[str, set[str]] = {}  # words for efforts that a model does not know

    @property
    def capabilities(self) -> Capabilities:
        """What the template of the tokenizer here says about the model."""
        return self._tokenizer.capabilities if self._tokenizer is not None else Capabilities()

    async def open(self, source: ModelSource) -> None:
        """Read the model's tokenizer if it is on this machine; without it, prompts are sent as messages."""
        files = TokenizerFiles(source.tokenizer, source.name, source.template, source.stop)
        if self._client is not None and self._client.files == files and self._tokenizer is not None:
            return
        await self.close()
        if not source.tokenizer:
            return
        client = PromptClient(files)
        try:
            self._tokenizer = await client.open()
        except NoTokenIds as error:
            log.warning("Prompts of %s are sent as messages, not as token ids: %s", source.name, error)
            return
        self._client, self._defuse = client, defuse_tokens(self._tokenizer.control)

    async def close(self) -> None:
        """End the tokenizer's process."""
        client, self._client, self._tokenizer, self._defuse = self._client, None, None, defuse_forms
        if client is not None:
            await client.close()

    async def prompt(self, server: Server, request: EngineRequest, source: ModelSource, share: float) -> Chat:
        """Token ids for a server, or messages, cut to `share` of its window. Raises RequestFailed.

        share: less than MARGIN after the server refused the prompt as too long.
        """
        window = window_of(server, source)
        pictures = any(turn.pictures for turn in request.prompt.turns)
        client = self._client
        if client is not None and not pictures and await self._takes_ids(server, source.path):
            try:
                return await _as_ids(client, request, window if share == MARGIN else window // 2)
            except NoTokenIds as error:
                log.warning("A prompt is sent as messages, not as token ids: %s", error)
        return await self._as_messages(server, request, source, share)

    def body(self, server: Server, request: EngineRequest, source: ModelSource, chat: Chat) -> dict[str, object]:
        """The body of a request."""
        profile, refused = server.profile, self._refused_efforts.get(source.path, ())
        params = replace(request.params, max_tokens=_answer_tokens(request, window_of(server, source)))
        body: dict[str, object] = {"model": source.path, "stream": True, **profile.fixed}
        if chat.ids and self._tokenizer is not None:
            stop = (*source.stop, *self._tokenizer.end_texts, *params.stop)
            body |= {"prompt": list(chat.ids), **_sampling(replace(params, stop=stop), profile)}
            if profile.stop_ids and self._tokenizer.end_ids:
                body[profile.stop_ids] = self._tokenizer.end_ids
        else:
            body |= {"messages": chat.messages, **_sampling(params, profile), **profile.effort(params.think, refused)}
            if request.prompt.prefix and profile.continuation is Continuation.FLAG:
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        if profile.cache_salt and self._salts and request.workspace:
            body["cache_salt"] = request.workspace
        return body

    def effort_refused(self, server: Server, request: EngineRequest, source: ModelSource) -> bool:
        """Note that the model does not know the word of this request for how much to think; whether to ask again."""
        refused = self._refused_efforts.setdefault(source.path, set())
        word = server.profile.effort(request.params.think, refused).get("reasoning_effort")
        if request.params.think == "off" or not isinstance(word, str):
            return False
        refused.add(word)
        return True

    def measured(self, chat: Chat, tokens: int) -> None:
        """Note how many tokens a server counted in a prompt, to correct the estimate of the next ones."""
        if tokens and not chat.ids and not chat.pictures:
            self._ratio = 0.8 * self._ratio + 0.2 * min(2.0, max(0.5, tokens / max(1, chat.tokens)))

    async def _takes_ids(self, server: Server, model: str) -> bool:
        tokenizer = self._tokenizer
        if tokenizer is None or tokenizer.capabilities.reasoning:
            return False
        return await server.tokenizes_like(model, tokenizer.sample, tokenizer.sample_ids)

    async def _as_messages(self, server: Server, request: EngineRequest, source: ModelSource, share: float) -> Chat:
        """Messages by the estimate of their tokens. Near the window, the server counts them if it can."""
        window, how = window_of(server, source), server.profile.continuation
        room = (window - _answer_tokens(request, window)) * share
        chat = build_chat(request.prompt, room / self._ratio, how, self._defuse)
        if chat.pictures or chat.tokens * self._ratio < room * NEAR:  # servers count no pictures
            return chat
        counted = await server.count_tokens(source.path, chat.messages)
        if counted * share <= room:
            return chat
        return build_chat(request.prompt, room * chat.tokens / counted, how, self._defuse)


async def _as_ids(client: PromptClient, request: EngineRequest, window: int) -> Chat:
    built = await client.build(request.prompt, _answer_tokens(request, window), window)
    return Chat([], len(built.ids), built.dropped_turns, built.ids)


def window_of(server: Server, source: ModelSource) -> int:
    """A server's window for a model, bounded by the catalog's."""
    known = [window for window in (server.models.get(source.path, 0), source.context_window) if window]
    return min(known, default=UNKNOWN_WINDOW)


def _answer_tokens(request: EngineRequest, window: int) -> int:
    """Most tokens of thoughts and answer: at most half of the window, so that the question fits."""
    return min(request.params.most_tokens, window // 2)


def _sampling(params: SamplingParams, profile: Profile) -> Mapping[str, object]:
    """The sampling parameters that the server takes, by their names there."""
    values: dict[str, object] = {
        "temperature": params.temperature if params.temperature >= GREEDY_BELOW else 0.0,
        "top_p": params.top_p,
        "top_k": params.top_k or None,
        "min_p": params.min_p or None,
        "presence_penalty": params.presence_penalty or None,
        "repetition_penalty": params.repetition_penalty,
        "max_tokens": params.max_tokens,
        "stop": list(params.stop) or None,
        "seed": params.seed,
    }
    return {
        profile.parameters[name]: value
        for name, value in values.items()
        if value is not None and name in profile.parameters
    }
