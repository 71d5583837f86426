"""What tells llama.cpp, Ollama and transformers serve apart on the wire: routes, error bodies, chunks, usage.

Shapes are those of llama.cpp b11434, Ollama 0.14 and transformers 5.23.
"""

from aiohttp import web

from tests.support.fakes.openai.server_kinds import (
    CREATED,
    Counts,
    Json,
    Route,
    ServerKind,
    State,
    metrics_page,
    model_list,
    model_row,
    text_of,
)


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
            rows = [model_row(id_, "llamacpp", meta=meta | {"n_ctx": n}, aliases=[]) for id_, n in state.models.items()]
            if len(rows) > 1:
                rows = [
                    row | {"status": {"value": "loaded" if row["id"] in state.used else "unloaded"}} for row in rows
                ]
            return model_list(rows)

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
            return metrics_page(
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
            return model_list([model_row(id_, id_.rpartition("/")[0] or "library") for id_ in state.models])

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
            return model_list([row | {"created": CREATED + 0.5} for row in rows])

        return {
            ("GET", "/v1/models"): models,
            ("GET", "/health"): lambda _: web.json_response({"status": "ok"}),
        }

    def first_deltas(self) -> list[Json]:
        return [{"role": "assistant"}]

    def choice(self, delta: Json, reason: str | None) -> Json:
        return {"delta": delta, "index": 0} | ({"finish_reason": reason} if reason else {})
