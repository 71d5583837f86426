"""Checks INHOUSE_ENGINE_ARGS: arguments for a server that Inhouse runs, which must not undo what Inhouse sets."""

from collections.abc import Sequence

NETWORK = "it would let others reach the server"
OURS = "Inhouse sets it"
FILE = "Inhouse chooses the model"
CODE = "it would run code of the model's repository"
LOGS = "it would write people's messages to the log"
FILES = "it would give the server's clients files or tools of this machine"

VLLM = {
    **dict.fromkeys(
        ("host", "port", "uds", "root-path", "headless", "data-parallel-address", "data-parallel-rpc-port"), NETWORK
    ),
    **dict.fromkeys(("master-addr", "master-port", "nnodes", "node-rank"), NETWORK),
    **dict.fromkeys(
        ("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers", "enable-ssl-refresh"), NETWORK
    ),
    **dict.fromkeys(("api-key", "served-model-name"), OURS),
    **dict.fromkeys(("model", "model-tag", "revision", "code-revision"), FILE),
    "config": "it could set any other argument",
    "trust-remote-code": CODE,
    "allowed-local-media-path": FILES,
    **dict.fromkeys(("enable-log-requests", "enable-log-outputs", "max-log-len"), LOGS),
}
"""Arguments of vLLM that are refused, without their dashes, and why."""

LLAMA_CPP = {
    **dict.fromkeys(("host", "port", "reuse-port", "api-prefix", "rpc", "ssl-key-file", "ssl-cert-file"), NETWORK),
    **dict.fromkeys(("api-key", "api-key-file", "alias", "a"), OURS),
    **dict.fromkeys(
        ("model", "m", "model-url", "mu", "hf-repo", "hf", "hfr", "hf-file", "hff", "docker-repo", "dr"), FILE
    ),
    **dict.fromkeys(("models-dir", "models-preset", "models-max", "models-autoload"), FILE),
    **dict.fromkeys(("path", "media-path", "slot-save-path", "tools", "ui-mcp-proxy", "webui-mcp-proxy"), FILES),
    **dict.fromkeys(
        ("verbose", "v", "log-verbose", "log-verbosity", "verbosity", "lv", "log-file", "log-prompts-dir"), LOGS
    ),
}
"""The same of llama.cpp's server."""


def refused_argument(engine: str, arguments: Sequence[str]) -> str:
    """A sentence about the first refused argument; '' if all may be passed on. engine: as in INHOUSE_ENGINE."""
    table = VLLM if engine == "vllm" else LLAMA_CPP
    for word in arguments:
        if word == "--":
            return _sentence(word, OURS)
        if not word.startswith("-"):
            continue
        name = word.partition("=")[0].lstrip("-").replace("_", "-").lower()
        if name in table:
            return _sentence(word, table[name])
        if engine == "vllm" and word.startswith("--"):  # its parser takes the beginnings of names
            meant = [full for full in table if full.startswith(name)]
            meant += [full for full in table if name.removeprefix("no-") == full]
            if meant:
                return _sentence(word, table[meant[0]])
    return ""


def _sentence(word: str, why: str) -> str:
    return f"INHOUSE_ENGINE_ARGS has {word.partition('=')[0]}, which is not passed on: {why}; remove it"
