"""Builds prompts as token ids: `python -m bot.engine.remote.prompt_process FOLDER TEMPLATE NAME`.

Reads Build messages from stdin and writes an answer to each to stdout; bot.engine.remote.prompt_client is the client.
It ends when its stdin closes, and so with its parent. It takes about 120 MB.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from bot.engine.client.protocol import HEADER, MAX_FRAME
from bot.engine.remote.prompt_client import Answer, Build, Built, PromptRefused, Ready, frame
from bot.models import model_directory
from bot.types.errors import InhouseError

SAMPLE = "Hello, wörld! It is 12345.67 o'clock;\n\n  def f(x):\n\treturn '東京'  # 🙂"
"""A text on which most tokenizers differ."""
ENDS = 4
"""Most control tokens at the end of the sample."""


class PromptServer:
    """Answers requests with one tokenizer. Raises InhouseError, and whatever a damaged tokenizer raises."""

    def __init__(self, folder: str, template: str, name: str) -> None:
        from bot.engine.text.prompts import PromptBuilder
        from bot.models.tokenizer import read_tokenizer

        model_directory.check_sizes(Path(folder))
        tokenizer = read_tokenizer(Path(folder))
        self._prompts = PromptBuilder(tokenizer, template, 0, name)
        added = tokenizer.added_tokens_decoder
        control = [token.content for token in added.values() if token.content.strip()]
        ends = self._prompts.end_ids | {tokenizer.eos_token_id}
        sample = SAMPLE + "".join(added[end].content for end in sorted(ends & added.keys())[:ENDS])
        self.ready = Ready(
            control=control,
            end_ids=sorted(self._prompts.end_ids),
            end_texts=list(self._prompts.end_texts),
            capabilities=self._prompts.capabilities,
            sample=sample,
            sample_ids=tokenizer.encode(sample, add_special_tokens=False),
        )

    def answer(self, asked: Build) -> Answer:
        """Build one prompt."""
        try:
            built = self._prompts.build(asked.prompt, asked.max_tokens, asked.window)
        except InhouseError as error:
            return PromptRefused(str(error))
        return Built(built.ids, built.dropped_turns)


def main(arguments: Sequence[str]) -> None:
    """Serve until stdin closes."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers would import it: 140 MB for nothing
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    try:
        server = PromptServer(*arguments)
    except InhouseError as error:
        _send(answers, PromptRefused(str(error)))
        return
    except Exception as error:  # a damaged tokenizer may raise anything
        _send(answers, PromptRefused(f"the tokenizer in {arguments[0]} cannot be read ({type(error).__name__})"))
        return
    _send(answers, server.ready)
    while header := requests.read(HEADER):
        body = requests.read(min(int.from_bytes(header, "big"), MAX_FRAME))
        _send(answers, server.answer(msgspec.msgpack.decode(body, type=Build)))


def _send(answers: BinaryIO, answer: Answer) -> None:
    answers.write(frame(answer))
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
