"""`python -m bench.agreement`: compares greedy answers of our own engine with those of real servers.

SmolLM2 with the same 16-bit weights on our engine, on llama.cpp's server, and with `--vllm` on vLLM's CPU build, which
the first run installs under the user's cache directory. Prints for each pair of engines how many answers are the same,
and the share of tokens before the first difference.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import combinations, takewhile
from pathlib import Path
from statistics import median

from tokenizers import Tokenizer

from bench.asking import conversation, unseen
from bot.config.settings import load_settings
from bot.engine.client.process import EngineProcess
from bot.engine.remote.remote_engine import RemoteEngine
from bot.models.catalog import Catalog
from bot.models.pull import pull
from bot.types.engine import EngineRequest, ModelSource
from bot.types.messages import SamplingParams
from tests.support.real_servers.servers import RealServer, llama_cpp, vllm

SUBJECTS = ("the sea", "a lighthouse", "an old clock", "the moon")
ASKED = ("What is {}?", "Tell me about {}.", "Write a poem about {}.", "Give three facts about {}.", "Why is {} there?")
QUESTIONS = [asked.format(subject) for subject in SUBJECTS for asked in ASKED]
TOKENS = 64
SYSTEM = "You are a helpful assistant."


async def answers(engine: EngineProcess | RemoteEngine, source: ModelSource) -> list[str]:
    """The greedy answers, one after the other."""
    try:
        await engine.load(source, unseen)
        return [await _answer(engine, question) for question in QUESTIONS]
    finally:
        await engine.close()


async def _answer(engine: EngineProcess | RemoteEngine, question: str) -> str:
    params = SamplingParams(temperature=0.0, top_p=1.0, repetition_penalty=1.0, max_tokens=TOKENS)
    request = EngineRequest(question, conversation([question], SYSTEM), params)
    return "".join([delta.text async for delta in engine.stream(request)])


def table(found: dict[str, list[str]], tokenizer: Tokenizer) -> str:
    """A Markdown table of all pairs."""
    lines = [
        f"| engines | the same answers, of {len(QUESTIONS)} | tokens before the first difference | median |",
        "| --- | --- | --- | --- |",
    ]
    ids = {name: [tokenizer.encode(text).ids for text in said] for name, said in found.items()}
    for one, other in combinations(ids, 2):
        pairs = list(zip(ids[one], ids[other], strict=True))
        equal = [_common(*pair) for pair in pairs]
        share = sum(equal) / sum(max(map(len, pair)) for pair in pairs)
        same = sum(first == second for first, second in pairs)
        lines.append(f"| {one}, {other} | {same} | {share:.0%} | {median(equal):.0f} |")
    return "\n".join(lines)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


async def main(dtype: str, with_vllm: bool) -> None:
    """Asks all engines and prints the table."""
    settings = load_settings()
    model = pull(Catalog.of(settings).get("smollm2"), settings)
    source = ModelSource("smollm2", str(model), device="cpu", dtype=dtype)
    found = {"ours": await answers(EngineProcess(), source)}
    with tempfile.TemporaryDirectory() as logs:
        servers = [llama_cpp(model, Path(logs), dtype=dtype)]
        servers += [vllm(model, Path(logs), dtype=dtype)] if with_vllm else []
        for server in servers:
            found[server.title] = await _of_server(server)
    print(f"SmolLM2 in {dtype}, {TOKENS} tokens an answer:\n")
    print(table(found, Tokenizer.from_file(str(model / "tokenizer.json"))))


async def _of_server(server: RealServer) -> list[str]:
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, server)
        return await answers(RemoteEngine([server.url]), ModelSource("smollm2", server.model))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.agreement")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--vllm", action="store_true", help="vLLM, too (it takes two minutes to start)")
    given = parser.parse_args()
    asyncio.run(main(given.dtype, given.vllm))
