"""What tells vLLM, Ray Serve LLM and SGLang apart on the wire: routes, error bodies, chunks, usage.

Shapes are those of vLLM 0.33, Ray 2.60 and SGLang 0.5.
"""

from aiohttp import web

from tests.support.fakes.openai.server_kinds import (
    Json,
    Route,
    ServerKind,
    State,
    metrics_page,
    model_list,
    model_row,
    prompt_tokens,
)


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
            return model_list([model_row(id_, "vllm", root=id_, parent=None, max_model_len=n) for id_, n in all_()])

        def all_() -> list[tuple[str, int]]:
            return list(state.models.items())

        def tokenize(body: Json) -> web.Response:
            found = prompt_tokens(state, body)
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
            found["GET", "/metrics"] = lambda _: metrics_page(
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


class RayServe(Vllm):
    """Ray Serve LLM: vLLM behind a router that has only the API's own routes."""

    name = "ray"
    running_usage = False

    def no_model(self, model: str, models: dict[str, int]) -> web.Response:
        text = f'Got request for model "{model}". Could not find base model with ID "{model}".'
        return web.json_response({"detail": text}, status=404)

    def routes(self, state: State) -> dict[tuple[str, str], Route]:
        def row(id_: str, window: int) -> Json:
            told = {"model_id": id_, "input_modality": "text", "max_request_context_length": window}
            return model_row(id_, "organization-owner", permission=[], metadata=told)

        return {("GET", "/v1/models"): lambda _: model_list([row(*each) for each in state.models.items()])}


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
            rows = [model_row(id_, "sglang", root=id_, max_model_len=n) for id_, n in state.models.items()]
            return model_list(rows)

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
            found["GET", "/metrics"] = lambda _: metrics_page(
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
