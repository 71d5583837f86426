"""The common part of the servers on the wire, whose kinds are in gpu_servers and desktop_servers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

Json = dict[str, Any]  # Any: JSON values


class Tokenizer(Protocol):
    """What the fake uses of a tokenizer of transformers."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]: ...

    def decode(self, token_ids: list[int]) -> str | list[str]: ...


Route = Callable[[Json], web.Response]

CREATED = 1_780_000_000


@dataclass(slots=True)
class State:
    """What routes show. `models`: context windows by id, tokens. `running`, `waiting`: questions."""

    models: dict[str, int]
    slots: int
    metrics: bool
    running: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)  # models that have answered, for Ollama's /api/ps
    words: dict[str, int] = field(default_factory=dict)  # the tokenizer's vocabulary
    abilities: tuple[str, ...] = ()  # thinking, tools, vision
    tokenizer: Tokenizer | None = None

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text; one a word without a tokenizer."""
        if self.tokenizer is not None:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return [self.words.setdefault(word, len(self.words) + 1) for word in text.split()]


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of tokens of one request."""

    prompt: int
    cached: int
    answer: int

    def usage(self, *, details: bool) -> Json:
        """The usage object; `details`: with the cached tokens."""
        usage: Json = {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.answer,
            "completion_tokens": self.answer,
        }
        if details:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return usage


def text_of(message: Json) -> str:
    """The text of a chat message, of all its text parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


class ServerKind:
    """The common part; each kind of server overrides what differs."""

    name = ""
    reasoning = "reasoning_content"  # the field of reasoning in a delta
    opens = "first word"  # what has to happen before the status line: 'first word', 'arrival'; 'role': role chunk too
    done = True  # whether a stream ends with [DONE]
    done_after_error = False
    always_usage = False
    running_usage = False  # whether it knows continuous_usage_stats
    cached_details = True
    comments = False
    takes_ids = False  # whether /v1/completions takes a prompt as token ids
    continues = ""  # 'rest' or 'whole': what is sent for a last message of the assistant
    public: frozenset[str] = frozenset()  # paths that need no key
    while_loading: frozenset[str] = frozenset()  # paths that work while the model is loading

    def needs_key(self, path: str) -> bool:
        """Whether a path is refused without the key."""
        return path not in self.public

    def error(self, status: int, message: str, *, param: str | None = None) -> Json:
        """The body of an error, as for HTTP `status`."""
        raise NotImplementedError

    def stream_error(self, message: str) -> Json:
        """The object that is sent within a stream."""
        return self.error(500, message)

    def unauthorized(self) -> Json:
        """The body of a 401."""
        return {"error": "Unauthorized"}

    def takes(self, model: str, models: dict[str, int]) -> bool:
        """Whether the server answers a request for this model."""
        return model in models

    def no_route(self) -> web.Response:
        """The response for an unknown path."""
        return web.json_response({"detail": "Not Found"}, status=404)

    def no_model(self, model: str, models: dict[str, int]) -> web.Response:
        """The response for a model that the server does not have."""
        return web.json_response(self.error(404, f"The model `{model}` does not exist.", param="model"), status=404)

    def loading(self) -> web.Response:
        """The response to all requests while the model is loading."""
        return web.json_response(self.error(503, "Loading model"), status=503)

    def too_long(self, prompt: int, answer: int | None, window: int) -> Json | None:
        """The body of the 400 for a prompt and a longest answer that do not fit; None: the server takes it."""
        return None

    def refusal(self, body: Json) -> web.Response | None:
        """The response to a body with fields that the server refuses."""
        return None

    def thinks(self, body: Json) -> bool:
        """Whether the request leaves reasoning on."""
        return bool((body.get("chat_template_kwargs") or {}).get("enable_thinking", True))

    def routes(self, state: State) -> dict[tuple[str, str], Route]:
        """All routes but chat completions, by method and path."""
        raise NotImplementedError

    def first_deltas(self) -> list[Json]:
        """Deltas before the first word."""
        return [{"role": "assistant", "content": ""}]

    def delta(self, name: str, text: str) -> Json:
        """The delta of a word; name: 'content' or 'reasoning'."""
        return {self.reasoning if name == "reasoning" else "content": text}

    def last_delta(self) -> Json:
        """The delta beside the finish reason."""
        return {}

    def text_choice(self, text: str, reason: str | None) -> Json:
        """The only element of `choices` of a completion without messages."""
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}

    def choice(self, delta: Json, reason: str | None) -> Json:
        """The only element of `choices`."""
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    def extras(self) -> Json:
        """Fields of every chunk beyond OpenAI's."""
        return {}

    def last_extras(self, counts: Counts) -> Json:
        """Fields of the last chunk beyond OpenAI's."""
        return {}


def model_row(id_: str, owner: str, **more: object) -> Json:
    """An element of the list of models."""
    return {"id": id_, "object": "model", "created": CREATED, "owned_by": owner} | more


def model_list(rows: list[Json]) -> web.Response:
    """The response of /v1/models."""
    return web.json_response({"object": "list", "data": rows})


def prompt_tokens(state: State, body: Json) -> list[int]:
    """Token ids of the messages or the prompt of a request."""
    if "messages" in body:
        return state.tokens(" ".join(map(text_of, body["messages"])))
    return state.tokens(body.get("prompt", ""))


def metrics_page(state: State, label: str, *gauges: tuple[str, float]) -> web.Response:
    """Prometheus' text format; `label` precedes the model's name."""
    labels = f'{{{label}"{next(iter(state.models))}"}}' if label else ""
    lines = [f"# HELP {name} A gauge.\n# TYPE {name} gauge\n{name}{labels} {float(value)}\n" for name, value in gauges]
    return web.Response(text="".join(lines), content_type="text/plain", charset="utf-8")
