"""Tests which arguments INHOUSE_ENGINE_ARGS may pass to a server that Inhouse runs, and the settings around it."""

import shlex

import pytest

from bot.config.server_args import refused_argument
from bot.config.settings import Misconfigured, load_settings

REFUSED = {
    "vllm": (
        "--host 0.0.0.0|--host=0.0.0.0|--hos 0.0.0.0|--HOST 0.0.0.0|--port 1|--por=1|--uds /s|--root-path /x"
        "|--ssl-keyfile f|--ssl_certfile f|--ssl-c f|--api-key k|--api_key=k|--served-model-name x|--served x|--model m"
        "|--config f.yaml|--conf f|--trust-remote-code|--trust_remote|--enable-log-requests|--headless"
        "|--dtype float16 --host x|--"
    ),
    "llama.cpp": (
        "--host 0.0.0.0|--host=0.0.0.0|--port 1|--api-key k|--api_key k|--api-key-file f|-a x|--alias x|--alias=x"
        "|-m f|--model f|-hf org/x|--hf-repo x|--ssl-key-file f|--ssl-cert-file f|--api-prefix /x|--path /|--rpc h:1"
        "|-v|-lv 5|--log-file f|--threads 2 --host ::|--"
    ),
}


@pytest.mark.parametrize(
    ("engine", "line"), [(name, line) for name, lines in REFUSED.items() for line in lines.split("|")]
)
def test_an_argument_that_undoes_what_inhouse_sets_is_refused(engine: str, line: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        load_settings(engine=engine, engine_args=line)
    (mistake,) = raised.value.mistakes
    assert mistake.startswith("INHOUSE_ENGINE_ARGS has -")
    assert raised.value.usable.engine == engine
    assert raised.value.usable.engine_args == ()


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ("vllm", "--max-num-seqs 16 --gpu-memory-utilization 0.8 -tp 2 --hf-overrides '{\"a\": 1}' --enforce-eager"),
        ("vllm", "--model-impl transformers --config-format hf --tokenizer-mode auto --reasoning-parser qwen3"),
        ("llama.cpp", "-t 4 -ngl -1 -fa on --cache-type-k q8_0 --ctx-size 8192 -b 256"),
    ],
)
def test_other_arguments_are_passed_on(engine: str, line: str) -> None:
    assert load_settings(engine=engine, engine_args=line).engine_args == tuple(shlex.split(line))
    assert not refused_argument(engine, shlex.split(line))


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"engine_args": "'open"}, "it must be arguments of the server's command, quoted as in a shell"),
        (
            {"engine": "vllm", "engine_urls": "http://gpu1:8000/v1"},
            "INHOUSE_ENGINE is vllm, which Inhouse runs itself, a",
        ),
        (
            {"engine": "llama.cpp", "quantization": "4bit"},
            "INHOUSE_ENGINE is llama.cpp, and INHOUSE_QUANTIZATION is 4b",
        ),
        ({"engine": "llama"}, "it must be auto, openai, vllm or llama.cpp"),
    ],
)
def test_contradictions_are_one_sentence(given: dict[str, str], mistake: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        load_settings(**given)
    assert len(raised.value.mistakes) == 1
    assert mistake in raised.value.mistakes[0]
