"""What each kind of server takes and publishes, as one table, and how a server's kind is found out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum


class Continuation(Enum):
    """How a server goes on with an answer that it began."""

    ASK = "ask"  # it cannot: a user message asks it to go on
    FLAG = "flag"  # `continue_final_message`; it returns what follows
    LAST_MESSAGE = "last message"  # a last assistant message is continued; it returns the whole text again


EFFORTS = ("off", "low", "high")
"""Values of /think."""
WORDS = {"off": ("none",), "low": ("low",), "high": ("high", "xhigh")}
"""What models call these efforts; Qwen3.8 knows low, medium and xhigh, and its template fails for 'high'."""

STANDARD = {name: name for name in ("temperature", "top_p", "presence_penalty", "max_tokens", "seed", "stop")}
SETTABLE = ("temperature", "top_p", "repetition_penalty")
"""Sampling parameters that people or operators can set."""
TUNABLE = (*SETTABLE, "top_k", "min_p", "presence_penalty")
"""Sampling parameters that they or a model's makers set."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of server.

    parameters: fields of SamplingParams that it takes, and their names there. fixed: fields that every request has.
    running, waiting: its gauges of requests in /metrics, '' for none. most_at_once: answers that it writes well at the
    same time, where it does not say. cache_salt: whether it can keep the prefix caches of workspaces apart. token_ids:
    whether its /completions takes a prompt as token ids. stop_ids: its name for ids that end an answer; '': the model's
    own end it. efforts: values of /think that it passes on to its model. switches: it takes variables of the chat
    template.
    """

    title: str
    parameters: Mapping[str, str] = field(default_factory=lambda: STANDARD)
    fixed: Mapping[str, object] = field(default_factory=dict)
    continuation: Continuation = Continuation.ASK
    running: str = ""
    waiting: str = ""
    most_at_once: int = 8
    cache_salt: bool = False
    token_ids: bool = False
    stop_ids: str = ""
    efforts: tuple[str, ...] = EFFORTS
    switches: bool = True

    def effort(self, think: str, refused: Collection[str] = ()) -> dict[str, object]:
        """The fields of a request that say how much the model thinks; none for its default.

        refused: words for it that the model does not know.
        """
        if think not in self.efforts:
            return {}
        word = next((word for word in WORDS[think] if word not in refused), "")
        graded: dict[str, object] = {"reasoning_effort": word} if word else {}
        if not self.switches:
            return graded
        thinks = think != "off"
        variables: dict[str, object] = {"enable_thinking": thinks, "thinking": thinks}
        graded = graded if thinks else {}  # templates and harmony know no 'none'; the switch says it
        return {"chat_template_kwargs": {**variables, **graded}, **graded}

    @property
    def lacks(self) -> tuple[str, ...]:
        """Names of the sampling parameters of TUNABLE that it does not take."""
        return tuple(name for name in TUNABLE if name not in self.parameters)


USAGE = {"stream_options": {"include_usage": True}}
EXTENDED = {**STANDARD, **{name: name for name in ("top_k", "min_p", "repetition_penalty")}}

VLLM = Profile(
    "vLLM",
    parameters=EXTENDED,
    fixed=USAGE,
    continuation=Continuation.FLAG,
    running="vllm:num_requests_running",
    waiting="vllm:num_requests_waiting",
    most_at_once=32,
    cache_salt=True,
    token_ids=True,
    stop_ids="stop_token_ids",
)
SGLANG = Profile(
    "SGLang",
    parameters=EXTENDED,
    fixed=USAGE,
    continuation=Continuation.FLAG,
    running="sglang:num_running_reqs",
    waiting="sglang:num_queue_reqs",
    most_at_once=32,
)
RAY = Profile(  # vLLM behind Ray's router, which has neither its metrics nor its tokenizer
    "Ray Serve LLM", EXTENDED, USAGE, Continuation.FLAG, most_at_once=32, cache_salt=True
)
LLAMA_CPP = Profile(
    "llama.cpp",
    parameters={**EXTENDED, "repetition_penalty": "repeat_penalty"},
    fixed={**USAGE, "top_k": 0, "min_p": 0.0},  # its own defaults of 40 and 0.05 would change the answers
    continuation=Continuation.LAST_MESSAGE,
    running="llamacpp:requests_processing",
    waiting="llamacpp:requests_deferred",
    most_at_once=4,
    token_ids=True,
)
OLLAMA = Profile("Ollama", fixed=USAGE, most_at_once=4, switches=False)
TRANSFORMERS = Profile(  # unknown fields are an error there, and batching ignores a request's own stop strings
    "transformers serve",
    parameters={name: name for name in ("temperature", "top_p", "max_tokens", "seed")},
    efforts=(),
)
OTHER = Profile("an OpenAI-compatible server", fixed=USAGE, efforts=("low", "high"), switches=False)

OWNERS = {"vllm": VLLM, "sglang": SGLANG, "organization-owner": RAY, "llamacpp": LLAMA_CPP, "library": OLLAMA}
"""Profiles by `owned_by` of the first model in /models."""

PROBES = (
    ("/api/version", "version", OLLAMA),
    ("/props", "default_generation_settings", LLAMA_CPP),
    ("/get_model_info", "model_path", SGLANG),
    ("/version", "version", VLLM),
)
"""Paths below the server's root, a key that their JSON answer has, and the profile that this means."""
