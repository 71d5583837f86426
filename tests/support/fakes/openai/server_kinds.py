"""What tells the servers apart on the wire: routes, error bodies, chunks, usage.

Shapes are those of vLLM 0.33, SGLang 0.5, llama.cpp b11434, Ollama 0.14 and transformers 5.23.
"""

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


class Vllm(ServerKind):
    """vLLM."""

    name = "vllm"
    reasoning = "reasoning"
    opens = "arrival"
    done_after_error = True
    running_usage = True
    takes_ids = True
    continues = "rest"

    def needs_key(self, path: str) -> bool:
        return path.startswith("/v1")

    def error(self, status: int, message: str, *, param: str | None = None) -> Json:
        kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
        kind = kinds.get(status, "ServiceUnavailableError" if status == 503 else "TooManyRequests")
        return {"error": {"message": message, "type": kind, "param": param, "code": status}}

    def too_long(self, prompt: int, answer: int | None, window: int) -> Json | None:
        if prompt + (answer or 1) <= window:
            return None
        message = (
            f"This model's maximum context length is {window} tokens. However, you requested {answer or 0} output "
            f"tokens and your prompt contains {prompt} input tokens, for a total of {prompt + (answer or 0)} tokens. "
            "Please reduce the length of the input prompt or the number of requested output tokens. "
            f"(parameter=input_tokens, value={prompt})"
        )
        return self.error(400, message, param="input_tokens")

    def refusal(self, body: Json) -> web.Response | None:
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
            return web.json_response(self.error(400, message), status=400)
        return None

    def routes(self, state: State) -> dict[tuple[str, str], Route]:
        def models(_: Json) -> web.Response:
            return _model_list([_model(id_, "vllm", root=id_, parent=None, max_model_len=n) for id_, n in all_()])

        def all_() -> list[tuple[str, int]]:
            return list(state.models.items())

        def tokenize(body: Json) -> web.Response:
            found = _prompt_tokens(state, body)
            window = state.models.get(body.get("model") or next(iter(state.models)), 0)
            return web.json_response(
                {"count": len(found), "max_model_len": window, "tokens": found, "token_strs": None}
            )

        found: dict[tuple[str, str], Route] = {
            ("GET", "/v1/models"): models,
            ("GET", "/health"): lambda _: web.Response(),
            ("GET", "/ping"): lambda _: web.Response(),
            ("GET", "/version"): lambda _: web.json_response({"version": "0.33.0"}),
            ("POST", "/tokenize"): tokenize,
        }
        if state.metrics:
            found["GET", "/metrics"] = lambda _: _metrics(
                state,
                'engine="0",model_name=',
                ("vllm:num_requests_running", len(state.running)),
                ("vllm:num_requests_waiting", len(state.waiting)),
                ("vllm:num_requests_waiting_by_reason", len(state.waiting)),  # of the reason 'capacity'
                ("vllm:kv_cache_usage_perc", len(state.running) / state.slots),
            )
        return found

    def last_delta(self) -> Json:
        return {"content": ""}

    def choice(self, delta: Json, reason: str | None) -> Json:
        return super().choice(delta, reason) | ({"stop_reason": None} if reason else {}) | {"token_ids": None}


class Sglang(ServerKind):
    """SGLang. It answers whatever the model's name in a request is."""

    name = "sglang"
    done_after_error = True
    running_usage = True
    continues = "rest"
    public = frozenset({"/health", "/health_generate", "/metrics"})

    def takes(self, model: str, models: dict[str, int]) -> bool:
        return True

    def error(self, status: int, message: str, *, param: str | None = None) -> Json:
        kinds = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailableError"}
        kind = kinds.get(status, "InternalServerError")
        return {"object": "error", "message": message, "type": kind, "param": param, "code": status}

    def stream_error(self, message: str) -> Json:
        return {"error": self.error(500, message)}

    def too_long(self, prompt: int, answer: int | None, window: int) -> Json | None:
        if prompt >= window:
            text = f"The input ({prompt} tokens) is longer than the model's context length ({window} tokens)."
            return self.error(400, text)
        if answer is None or prompt + answer <= window:
            return None
        message = (
            f"Requested token count exceeds the model's maximum context length of {window} tokens. You requested a "
            f"total of {prompt + answer} tokens: {prompt} tokens from the input messages and {answer} tokens for the "
            "completion. Please reduce the number of tokens in the input messages or the completion to fit within the "
            "limit."
        )
        return self.error(400, message)

    def routes(self, state: State) -> dict[tuple[str, str], Route]:
        first = next(iter(state.models))

        def models(_: Json) -> web.Response:
            rows = [_model(id_, "sglang", root=id_, max_model_len=n) for id_, n in state.models.items()]
            return _model_list(rows)

        def model_info(_: Json) -> web.Response:
            info = {"model_path": first, "tokenizer_path": first, "is_generation": True}
            return web.json_response(info | {"has_image_understanding": "vision" in state.abilities})

        def server_info(_: Json) -> web.Response:
            info = {"model_path": first, "served_model_name": first, "context_length": state.models[first]}
            return web.json_response(info | {"max_running_requests": state.slots, "version": "0.5.9"})

        found: dict[tuple[str, str], Route] = {
            ("GET", "/v1/models"): models,
            ("GET", "/health"): lambda _: web.Response(),
            ("GET", "/health_generate"): lambda _: web.Response(),
            ("GET", "/get_model_info"): model_info,
            ("GET", "/model_info"): model_info,
            ("GET", "/get_server_info"): server_info,
            ("GET", "/server_info"): server_info,
        }
        if state.metrics:
            found["GET", "/metrics"] = lambda _: _metrics(
                state,
                "model_name=",
                ("sglang:num_running_reqs", len(state.running)),
                ("sglang:num_running_reqs_offline_batch", len(state.running)),
                ("sglang:num_queue_reqs", len(state.waiting)),
                ("sglang:token_usage", len(state.running) / state.slots),
            )
        return found

    def choice(self, delta: Json, reason: str | None) -> Json:
        return super().choice(delta, reason) | {"matched_stop": None}


class LlamaCpp(ServerKind):
    """llama.cpp's server. With one model it ignores the model's name; with several it is a router."""

    name = "llama.cpp"
    comments = True
    takes_ids = True
    continues = "whole"
    public = frozenset({"/health", "/v1/health"})
    while_loading = frozenset({"/v1/models", "/models"})

    def takes(self, model: str, models: dict[str, int]) -> bool:
        return len(models) == 1 or model in models

    def error(self, status: int, message: str, *, param: str | None = None) -> Json:
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            404: "not_found_error",
            501: "not_supported_error",
            503: "unavailable_error",
        }
        return {"error": {"code": status, "message": message, "type": kinds.get(status, "server_error")}}

    def unauthorized(self) -> Json:
        return self.error(401, "Invalid API Key")

    def no_route(self) -> web.Response:
        return web.json_response(self.error(404, "File Not Found"), status=404)

    def no_model(self, model: str, models: dict[str, int]) -> web.Response:
        return web.json_response(self.error(400, f"model '{model}' not found"), status=400)

    def too_long(self, prompt: int, answer: int | None, window: int) -> Json | None:
        if prompt < window:
            return None
        message = f"request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it"
        kind = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt, "n_ctx": window}
        return {"error": {"code": 400, "message": message} | kind}

    def routes(self, state: State) -> dict[tuple[str, str], Route]:
        def models(_: Json) -> web.Response:
            meta = {"vocab_type": 2, "n_vocab": 49152, "n_ctx_train": 131072, "n_params": 134_515_008}
            rows = [_model(id_, "llamacpp", meta=meta | {"n_ctx": n}, aliases=[]) for id_, n in state.models.items()]
            if len(rows) > 1:
                rows = [
                    row | {"status": {"value": "loaded" if row["id"] in state.used else "unloaded"}} for row in rows
                ]
            return _model_list(rows)

        def props(_: Json) -> web.Response:
            first, window = next(iter(state.models.items()))
            if len(state.models) > 1:
                router = {"role": "router", "max_instances": 4, "models_autoload": True}
                return web.json_response(router | {"build_info": "b11434-0a1b2c3d"})
            slot = {"params": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}, "n_ctx": window}
            info = {"total_slots": state.slots, "model_alias": first, "model_path": f"/models/{first}.gguf"}
            modalities = {
                "modalities": {"vision": "vision" in state.abilities, "audio": False},
                "chat_template": "{{ messages }}" + "<think>" * ("thinking" in state.abilities),
                "chat_template_caps": {"supports_tools": "tools" in state.abilities, "supports_system_role": True},
            }
            known = {"default_generation_settings": slot, "build_info": "b11434-0a1b2c3d"}
            switches = {"endpoint_slots": True, "endpoint_props": False, "endpoint_metrics": state.metrics}
            return web.json_response(known | info | modalities | switches)

        def slots(_: Json) -> web.Response:
            window = next(iter(state.models.values()))
            rows = [{"id": n, "n_ctx": window, "is_processing": n < len(state.running)} for n in range(state.slots)]
            return web.json_response(rows)

        def tokenize(body: Json) -> web.Response:
            found = state.tokens(body.get("content", ""))
            return web.json_response({"tokens": found})

        def apply_template(body: Json) -> web.Response:
            return web.json_response({"prompt": "\n".join(map(text_of, body.get("messages", [])))})

        def metrics(_: Json) -> web.Response:
            if not state.metrics:
                text = "This server does not support metrics endpoint. Start it with `--metrics`"
                return web.json_response(self.error(501, text), status=501)
            return _metrics(
                state,
                "",
                ("llamacpp:requests_processing", len(state.running)),
                ("llamacpp:requests_deferred", len(state.waiting)),
            )

        def health(_: Json) -> web.Response:
            return web.json_response({"status": "ok"})

        return {
            ("GET", "/v1/models"): models,
            ("GET", "/models"): models,
            ("GET", "/health"): health,
            ("GET", "/v1/health"): health,
            ("GET", "/props"): props,
            ("GET", "/slots"): slots,
            ("GET", "/metrics"): metrics,
            ("POST", "/tokenize"): tokenize,
            ("POST", "/apply-template"): apply_template,
        }

    def first_deltas(self) -> list[Json]:
        return [{"role": "assistant", "content": None}]

    def choice(self, delta: Json, reason: str | None) -> Json:
        return {"finish_reason": reason, "index": 0, "delta": delta}

    def extras(self) -> Json:
        return {"system_fingerprint": "b11434-0a1b2c3d"}

    def last_extras(self, counts: Counts) -> Json:
        new = counts.prompt - counts.cached
        times = {"prompt_ms": 10.0 * new, "predicted_ms": 20.0 * counts.answer}
        speeds = {"prompt_per_second": 100.0, "predicted_per_second": 50.0}
        known = {"cache_n": counts.cached, "prompt_n": new, "predicted_n": counts.answer}
        return {"timings": known | times | speeds}


class Ollama(ServerKind):
    """Ollama's /v1. It has no keys of its own (a proxy's are checked here) and cuts a prompt that is too long."""

    name = "ollama"
    num_ctx = 0  # as the model's file sets it
    reasoning = "reasoning"
    cached_details = False

    def error(self, status: int, message: str, *, param: str | None = None) -> Json:
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def unauthorized(self) -> Json:
        return {"error": "unauthorized"}

    def no_route(self) -> web.Response:
        return web.Response(text="404 page not found", status=404)

    def no_model(self, model: str, models: dict[str, int]) -> web.Response:
        return web.json_response(self.error(404, f"model '{model}' not found"), status=404)

    def thinks(self, body: Json) -> bool:
        return body.get("reasoning_effort") != "none"

    def loading(self) -> web.Response:
        text = "server busy, please try again.  maximum pending requests exceeded"
        return web.json_response(self.error(503, text), status=503)

    def routes(self, state: State) -> dict[tuple[str, str], Route]:
        def models(_: Json) -> web.Response:
            return _model_list([_model(id_, id_.rpartition("/")[0] or "library") for id_ in state.models])

        def tags(_: Json) -> web.Response:
            return web.json_response({"models": [{"name": id_, "model": id_} for id_ in state.models]})

        def show(body: Json) -> web.Response:
            name = body.get("model", "")
            if name not in state.models:
                return web.json_response({"error": f"model '{name}' not found"}, status=404)
            info = {"general.architecture": "llama", "llama.context_length": 131072}
            details = {"family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_K_M"}
            parameters = f'num_ctx                        {self.num_ctx}\nstop "<|end|>"' if self.num_ctx else ""
            known = {"details": details, "model_info": info, "capabilities": ["completion", *state.abilities]}
            return web.json_response(known | {"parameters": parameters})

        def processes(_: Json) -> web.Response:
            rows = [
                {"name": id_, "model": id_, "size": 6 << 30, "size_vram": 6 << 30, "context_length": state.models[id_]}
                for id_ in state.used
            ]
            return web.json_response({"models": rows})

        return {
            ("GET", "/v1/models"): models,
            ("GET", "/"): lambda _: web.Response(text="Ollama is running"),
            ("GET", "/api/version"): lambda _: web.json_response({"version": "0.14.2"}),
            ("GET", "/api/tags"): tags,
            ("POST", "/api/show"): show,
            ("GET", "/api/ps"): processes,
        }

    def first_deltas(self) -> list[Json]:
        return []

    def delta(self, name: str, text: str) -> Json:
        return {"role": "assistant", "content": ""} | super().delta(name, text)

    def last_delta(self) -> Json:
        return {"role": "assistant", "content": ""}

    def choice(self, delta: Json, reason: str | None) -> Json:
        return {"index": 0, "delta": delta, "finish_reason": reason}

    def extras(self) -> Json:
        return {"system_fingerprint": "fp_ollama"}


class TransformersServe(ServerKind):
    """`transformers serve`. It has no keys of its own (a proxy's are checked here) and knows no window."""

    name = "transformers"
    opens = "role"
    done = False
    always_usage = True
    cached_details = False
    fields = frozenset(
        {
            *("audio", "chat_template_kwargs", "frequency_penalty", "function_call", "functions", "generation_config"),
            *("logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages", "metadata", "modalities"),
            *("model", "n", "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key"),
            *("prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier", "seed"),
            *("service_tier", "stop", "store", "stream", "stream_options", "temperature", "tool_choice", "tools"),
            *("top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
        }
    )

    def error(self, status: int, message: str, *, param: str | None = None) -> Json:
        return {"detail": message}

    def stream_error(self, message: str) -> Json:
        return {"error": message}

    def unauthorized(self) -> Json:
        return {"detail": "Not authenticated"}

    def no_model(self, model: str, models: dict[str, int]) -> web.Response:
        if len(models) > 1:
            return web.Response(text="Internal Server Error", status=500)  # it is not in the hub
        detail = f"Server is pinned to '{next(iter(models))}'; requested '{model}'."
        return web.json_response(self.error(400, detail), status=400)

    def refusal(self, body: Json) -> web.Response | None:
        unexpected = body.keys() - self.fields
        if not unexpected:
            return None
        return web.json_response(self.error(422, f"Unexpected fields in the request: {unexpected}"), status=422)

    def routes(self, state: State) -> dict[tuple[str, str], Route]:
        def models(_: Json) -> web.Response:
            rows = [{"owned_by": id_.rpartition("/")[0], "id": id_, "object": "model"} for id_ in state.models]
            return _model_list([row | {"created": CREATED + 0.5} for row in rows])

        return {
            ("GET", "/v1/models"): models,
            ("GET", "/health"): lambda _: web.json_response({"status": "ok"}),
        }

    def first_deltas(self) -> list[Json]:
        return [{"role": "assistant"}]

    def choice(self, delta: Json, reason: str | None) -> Json:
        return {"delta": delta, "index": 0} | ({"finish_reason": reason} if reason else {})


def _model(id_: str, owner: str, **more: object) -> Json:
    return {"id": id_, "object": "model", "created": CREATED, "owned_by": owner} | more


def _model_list(rows: list[Json]) -> web.Response:
    return web.json_response({"object": "list", "data": rows})


def _prompt_tokens(state: State, body: Json) -> list[int]:
    if "messages" in body:
        return state.tokens(" ".join(map(text_of, body["messages"])))
    return state.tokens(body.get("prompt", ""))


def _metrics(state: State, label: str, *gauges: tuple[str, float]) -> web.Response:
    """Prometheus' text format; `label` precedes the model's name."""
    labels = f'{{{label}"{next(iter(state.models))}"}}' if label else ""
    lines = [f"# HELP {name} A gauge.\n# TYPE {name} gauge\n{name}{labels} {float(value)}\n" for name, value in gauges]
    return web.Response(text="".join(lines), content_type="text/plain", charset="utf-8")
