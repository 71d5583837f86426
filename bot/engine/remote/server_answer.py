"""Reads one answer from the chunks of a server: its text, its thoughts, why it ended, and what it took."""

import time

from bot.engine.remote.api_client import ServerFailed
from bot.engine.remote.chat_stream import Chunk, Json
from bot.engine.remote.messages import Chat
from bot.engine.remote.thoughts import Thoughts
from bot.engine.text.reasoning import Split
from bot.types.engine import EngineRequest
from bot.types.messages import FinishReason, TokenDelta, Usage

MOST_CHARS = 200
"""Characters that a token has at most, to end the answer of a server that ignores the limit of tokens."""
BROKEN_OFF = ("abort", "error")
"""Finish reasons of SGLang and vLLM for an answer that is not whole."""
_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class ServerAnswer:
    """One answer. finish: the reason of the server for its end, '' before it. too_long: read no more chunks.

    repeated: text that the server sends again before it goes on with it. thoughts_begun: the model's earlier thoughts
    began in the prompt.
    """

    def __init__(self, request: EngineRequest, chat: Chat, repeated: str, *, thoughts_begun: bool) -> None:
        params = request.params
        self.finish = ""
        self.too_long = False
        self._request, self._chat = request, chat
        self._prefix = _Prefix(repeated)
        self._thoughts = Thoughts(thoughts_begun and params.think != "off")
        self._blank = bool(chat.ids) and not request.prompt.prefix  # white space that no chat template removes
        self._room = params.most_tokens * MOST_CHARS
        self._pieces = self._spoken = 0  # pieces with text or thoughts, and with text; each has a token or more
        self._usage: Json = {}
        self._began = self._last = time.monotonic()
        self._first = 0.0

    @property
    def begun(self) -> bool:
        """Whether a piece of text or thoughts has come."""
        return self._first > 0

    @property
    def silent_s(self) -> float:
        """Seconds since the last piece of text or thoughts."""
        return time.monotonic() - self._last

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt as the server counted them; 0 if it did not say."""
        return _number(self._usage, "prompt_tokens")

    @property
    def opened_in_prompt(self) -> bool:
        """Whether thoughts came as text, without their beginning."""
        return self._thoughts.opened_in_prompt

    def add(self, chunk: Chunk) -> Split:
        """Return the new text and thoughts of the next chunk, nothing if the answer is too long with it."""
        if chunk.text or chunk.reasoning:
            self._last = time.monotonic()
            self._first = self._first or self._last
            self._pieces += 1
        self.finish = chunk.finish_reason or self.finish
        self._usage = chunk.usage or self._usage
        text = self._prefix.rest(chunk.text)
        self._room -= len(text) + len(chunk.reasoning)
        if self._room < 0:
            return self._cut()
        if self._blank:
            text = text.lstrip()
            self._blank = not text
        split = self._thoughts.split(text, chunk.reasoning)
        self._spoken += bool(split.text)
        params = self._request.params
        return self._cut() if params.think_tokens and self._spoken > params.max_tokens else split

    def end(self, window: int, *, stopped: bool) -> TokenDelta:
        """Return the last delta. stopped: at our request. Raises ServerFailed if the answer is not whole."""
        if not stopped and not self.finish:
            raise ServerFailed("its stream ended in the middle of the answer")
        if not stopped and self.finish in BROKEN_OFF:
            raise ServerFailed(f"it broke the answer off ({self.finish})")
        now = time.monotonic()
        first = self._first or now
        held = "" if stopped else self._prefix.held()  # a beginning that it still repeats
        split = self._thoughts.end(held, whole=self.finish == "stop" and not stopped)
        details, chat = self._usage.get("prompt_tokens_details"), self._chat
        return TokenDelta(
            self._request.request_id,
            split.text,
            FinishReason.ABORT if stopped else _REASONS.get(self.finish, FinishReason.STOP),
            Usage(
                prompt_tokens=self.prompt_tokens or chat.tokens,
                cached_tokens=_number(details, "cached_tokens") if isinstance(details, dict) else 0,
                generated_tokens=_number(self._usage, "completion_tokens") or self._pieces,
                queue_s=0.0,
                prefill_s=first - self._began,
                decode_s=now - first,
                context_window=window,
                dropped_turns=chat.dropped_turns,
                defused=chat.defused,
                dropped_pictures=chat.dropped_pictures,
            ),
            split.reasoning,
            split.retracts,
        )

    def _cut(self) -> Split:
        self.finish, self.too_long = "length", True
        return Split("")


class _Prefix:
    """Drops the beginning of an answer that a server repeats when it goes on with it."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._text = prefix, ""

    def rest(self, text: str) -> str:
        """What is new in the next piece of text."""
        if not self._prefix:
            return text
        self._text += text
        if self._prefix.startswith(self._text) and len(self._text) < len(self._prefix):
            return ""
        return self.held()

    def held(self) -> str:
        """What was held back and turns out to be new."""
        new, self._text, self._prefix = self._text.removeprefix(self._prefix), "", ""
        return new


def _number(values: object, name: str) -> int:
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
