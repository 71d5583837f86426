"""`python -m bench.bare DIRECTORY`: measures transformers' continuous batching alone, with its GPU settings.

Greedy, 128 tokens per conversation, arbitrary prompt ids. Prints tokens per second for each number of conversations.
--graphs enables CUDA graphs, --ahead prepares the next step during the running one; both need a GPU. `bench.gpu` runs
it with and without them, in separate processes.
"""

import argparse
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput

TOKENS = 128


class Outputs(OutputRouter):
    """Output router of the manager with the least overhead."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: SimpleQueue[GenerationOutput] = SimpleQueue()

    def deliver(self, output: GenerationOutput) -> None:
        self.queue.put(output)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            self.queue.put(output)


def manager(model: Any, given: argparse.Namespace) -> Any:
    """Starts a batching manager."""
    made = model.init_continuous_batching(
        GenerationConfig(do_sample=False, max_new_tokens=TOKENS, eos_token_id=-1),
        ContinuousBatchingConfig(
            page_size=16,
            num_blocks=given.blocks,
            max_batch_tokens=544,
            max_requests_per_batch=32,
            use_cuda_graph=given.graphs,
            use_async_batching=given.ahead,
        ),
    )
    made.output_router = Outputs()
    made.start()
    return made


def at_once(running: Any, number: int, tag: str) -> float:
    """Tokens per second of `number` conversations."""
    began, made, left = perf_counter(), 0, number
    for place in range(number):
        ids = [5 + (7 * step + place) % 1000 for step in range(40)]
        running.add_request(ids, request_id=f"{tag} {place}", max_new_tokens=TOKENS, streaming=True)
    while left:
        output: GenerationOutput = running.output_router.queue.get(timeout=120)
        if output.error:
            raise SystemExit(f"the manager failed: {output.error}")
        if output.is_finished():
            left, made = left - 1, made + len(output.generated_tokens)
    return made / (perf_counter() - began)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.bare")
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--blocks", type=int, default=1024)
    parser.add_argument("--conversations", default="1,8,32")
    given = parser.parse_args()
    dtype = torch.bfloat16 if given.device == "cuda" else torch.float32
    torch.backends.cuda.enable_cudnn_sdp(False)  # as in bot.models.loading
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=dtype, device_map={"": given.device}).eval()
    running = manager(model, given)
    try:
        at_once(running, 8, "warm-up")
        for number in map(int, given.conversations.split(",")):
            print(f"{number} {at_once(running, number, str(number)):.1f}", flush=True)
    finally:
        running.stop(block=True)


if __name__ == "__main__":
    main()
