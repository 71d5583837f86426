"""Tests what is read from the logs of vLLM and llama.cpp: progress, causes, levels."""

import logging

import pytest

from bot.engine.local_server.server_log import CAUSES, KEPT, ServerLog
from tests.support.fakes.vllm_program import LOADING

KEY = "0123456789abcdef"


def log_of(*lines: str, title: str = "llama.cpp") -> ServerLog:
    log = ServerLog(title, "phi-4", KEY)
    for line in lines:
        log.add(line)
    return log


def test_progress_never_goes_back_and_reaches_the_end() -> None:
    log, seen = ServerLog("vLLM", "phi-4", KEY), []
    for line in "\n".join(LOADING).replace("\r", "\n").split("\n"):
        log.add(line)
        seen.append(log.fraction)
    assert seen == sorted(seen)
    assert 0.4 in seen, "half of the shards"
    assert seen[-1] == 0.95
    assert log.cache_tokens == 46_592


@pytest.mark.parametrize("percent", ["7" * 900, "101", "\u0665"])
def test_progress_is_a_share_whatever_a_line_says(percent: str) -> None:
    assert 0 <= log_of(f"Loading safetensors checkpoint shards: {percent}% Completed").fraction < 0.61


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("0.00.196.522 E llama_model_load: error loading model: unknown model architecture: 'llamx'", "(llamx)"),
        ("0.00.012.045 E gguf_init_from_reader: failed to read key-value pairs", "is damaged"),
        ("0.00.004.926 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1", "took its port"),
        ("0.00.31.926 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9", "memory"),
        ("error: invalid argument: --kv-unified", "does not know the argument --kv-unified"),
        ("vllm: error: unrecognized arguments: --thread 4", "does not know the argument --thread"),
        ('error while handling argument "--threads": stoi', "the argument --threads has a value"),
        ("error while loading shared libraries: libcuda.so.1: cannot open shared object file", "(libcuda.so.1)"),
        ("ModuleNotFoundError: No module named 'torchcodec'", "lacks a library (torchcodec)"),
        ("ValueError: No available memory for the cache blocks.", "memory"),
        ("ValueError: Free memory on device cuda:0 (2.1/7.8 GiB) is less than desired GPU memory util", "memory"),
        ("RuntimeError: Failed to infer device type, please set the environment", "no GPU"),
        ("ValueError: The repository /m contains custom code. Please pass `trust_remote_code=True`", "code of its own"),
        ("The checkpoint has model type `odd9` but Transformers does not recognize this architecture.", "(odd9)"),
    ],
)
def test_a_cause_is_one_phrase_without_the_servers_words(line: str, cause: str) -> None:
    found = log_of("starting", line, "Traceback (most recent call last):").cause()
    assert cause in found
    assert line not in found
    assert not found.endswith(".")


def test_an_unknown_cause_is_not_guessed() -> None:
    start = "[core.py:93] Initializing a V1 engine with config: model='/m', trust_remote_code=False, dtype=torch.half"
    assert not log_of("0.00.1.1 I srv init: model loaded", start, "out of luck").cause()


def test_the_key_and_control_characters_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "inhouse.engine"):
        log_of(f"key {KEY}\x1b[31m\x07 red", "(APIServer pid=7) ERROR 11-29 11:53 [a.py:1] broken", "", "   ")
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("DEBUG", "llama.cpp (phi-4): key [key] [31m  red"),
        ("WARNING", "llama.cpp (phi-4): (APIServer pid=7) ERROR 11-29 11:53 [a.py:1] broken"),
    ]


def test_a_long_log_keeps_its_end() -> None:
    log = log_of("CUDA out of memory", *map(str, range(KEPT)), "x" * 1_000_000)
    assert not log.cause()
    assert log.lines == KEPT + 2


def test_no_cause_ends_like_a_sentence() -> None:
    assert all(not cause.endswith(".") for _, cause in CAUSES)
