"""Starts the llama.cpp server of the package xllamacpp: `python -m bot.engine.local_server.llama_server ARGUMENTS`.

Takes the arguments of the program llama-server that Inhouse uses, and some more for INHOUSE_ENGINE_ARGS, by the same
names. Serves until a signal ends the process. The key comes from LLAMA_API_KEY.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from bot.types.errors import ConfigError

MB = 1 << 20
FLASH = ("auto", "on", "off")
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            f"INHOUSE_ENGINE_ARGS cannot be used: {message}. The package xllamacpp takes {', '.join(_names(self))}; a "
            "program llama-server on PATH takes all of llama.cpp's."
        )


def _names(parser: argparse.ArgumentParser) -> list[str]:
    return sorted(action.option_strings[0] for action in parser._actions if action.help)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises ConfigError. Arguments with a help text are for INHOUSE_ENGINE_ARGS."""
    parser = _Parser(allow_abbrev=False, add_help=False)
    add = parser.add_argument
    add("--model", required=True)
    add("--alias")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0)
    add("--metrics", action="store_true")
    add("--no-webui", action="store_true")
    add("--kv-unified", action="store_true")
    add("--threads-http", type=int, default=-1)
    add("--ctx-size", "-c", type=int, default=0, help="tokens of the KV cache")
    add("--parallel", "-np", type=int, default=1, help="answers at once")
    add("--cache-ram", "-cram", type=int, default=0, help="MB of RAM for prompts that left the KV cache")
    add("--batch-size", "-b", type=int, default=2048, help="tokens of a prompt in one step")
    add("--ubatch-size", "-ub", type=int, default=512, help="tokens that are computed together")
    add("--threads", "-t", type=int, default=-1, help="CPU threads for answers")
    add("--threads-batch", "-tb", type=int, default=-1, help="CPU threads for prompts")
    add("--n-gpu-layers", "-ngl", type=int, default=-1, help="layers on the GPU")
    add("--main-gpu", "-mg", type=int, default=0, help="the GPU that is used")
    add("--flash-attn", "-fa", choices=FLASH, default="auto", help="whether flash attention is used")
    add("--cache-type-k", "-ctk", choices=KV_TYPES, default="f16", help="type of the keys in the KV cache")
    add("--cache-type-v", "-ctv", choices=KV_TYPES, default="f16", help="type of the values in the KV cache")
    add("--mmproj", default="", help="the file of the part that reads pictures")
    add("--no-warmup", action="store_true", help="start without a first run of the model")
    return parser.parse_args(arguments)


def common_params(given: argparse.Namespace, key: str) -> Any:  # Any: the package has no types
    """The package's parameters for these arguments."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.model_alias = {given.alias} if given.alias else set()
    params.hostnames, params.port, params.api_keys = [given.host], given.port, [key] if key else []
    params.endpoint_metrics, params.endpoint_slots, params.ui = given.metrics, True, not given.no_webui
    params.kv_unified, params.n_threads_http = given.kv_unified, given.threads_http
    params.n_ctx, params.n_parallel, params.cache_ram_mib = given.ctx_size, given.parallel, given.cache_ram
    params.n_batch, params.n_ubatch = given.batch_size, given.ubatch_size
    params.cpuparams.n_threads = given.threads
    params.cpuparams_batch.n_threads = given.threads_batch
    params.n_gpu_layers, params.main_gpu = given.n_gpu_layers, given.main_gpu
    params.flash_attn_type = getattr(
        xllamacpp.llama_flash_attn_type,
        {"auto": "LLAMA_FLASH_ATTN_TYPE_AUTO", "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED"}.get(
            given.flash_attn, "LLAMA_FLASH_ATTN_TYPE_DISABLED"
        ),
    )
    params.cache_type_k = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{given.cache_type_k.upper()}")
    params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{given.cache_type_v.upper()}")
    params.mmproj.path, params.mmproj_use_gpu = given.mmproj, given.n_gpu_layers != 0
    params.warmup = not given.no_warmup
    return params


def list_devices() -> None:
    """Print the GPUs as the program llama-server does."""
    import xllamacpp

    kinds = xllamacpp.ggml_backend_dev_type
    for device in xllamacpp.get_device_info():
        if device["type"] in (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU):
            total, free = (device[name] // MB for name in ("memory_total", "memory_free"))
            print(f"  {device['name']}: {device['description']} ({total} MiB, {free} MiB free)")


def main() -> None:
    """Load the model and serve until a signal comes. Exits with status 1 if the server does not start."""
    if sys.argv[1:] == ["--list-devices"]:
        list_devices()
        return
    try:
        params = common_params(parse_arguments(sys.argv[1:]), os.environ.pop("LLAMA_API_KEY", ""))
        import xllamacpp

        server = xllamacpp.Server(params)
    except (RuntimeError, ConfigError, ImportError, OSError) as error:  # the server has logged the cause
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)
    while server:
        signal.pause()


if __name__ == "__main__":
    main()
