"""Builds prompts as token ids in a child process, for servers that take ids; defines its messages.

The child has the tokenizer, so that this process imports neither transformers nor torch. It starts with `open`, and
again with the next prompt after it ended.
"""

import asyncio
import contextlib
import logging
import sys
from dataclasses import dataclass

import msgspec

from bot.engine.client.child_process import child_environment
from bot.engine.client.protocol import HEADER, MAX_FRAME
from bot.types.engine import Capabilities
from bot.types.errors import RequestFailed
from bot.types.messages import Prompt

log = logging.getLogger("inhouse.engine")

START_S = 120.0
"""Timeout for the child's start, which reads the tokenizer."""
BUILD_S = 30.0
"""Timeout for a prompt; the longest ones take about a second."""
CHILD = "bot.engine.remote.prompt_process"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer on this machine. template: '' for its own, or a name in bot.engine.text.templates. name: the model's.

    stop: strings that end an answer.
    """

    folder: str
    name: str
    template: str = ""
    stop: tuple[str, ...] = ()


class Build(msgspec.Struct, frozen=True):
    """Build a prompt; prompt and answer (at most `max_tokens`) together fit `window`, in tokens."""

    prompt: Prompt
    max_tokens: int
    window: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The tokenizer is read. control: the texts of its control tokens. end_ids, end_texts: what ends an answer.

    sample: a text, and its ids, to find out whether another tokenizer is the same.
    """

    control: list[str]
    end_ids: list[int]
    end_texts: list[str]
    capabilities: Capabilities
    sample: str
    sample_ids: list[int]


class Built(msgspec.Struct, frozen=True, tag=True):
    """A prompt. dropped_turns: number of oldest turns left out."""

    ids: list[int]
    dropped_turns: int


class PromptRefused(msgspec.Struct, frozen=True, tag=True):
    """The tokenizer or a request cannot be used. `reason` is a message for people."""

    reason: str


Answer = Ready | Built | PromptRefused

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class NoTokenIds(Exception):
    """No token ids can be had; the text says why, as a phrase."""


def frame(message: Build | Answer) -> bytes:
    """A message with its length."""
    body = _encode(message)
    return len(body).to_bytes(HEADER, "big") + body


class PromptClient:
    """A child process for one tokenizer. Belongs to one event loop."""

    def __init__(self, files: TokenizerFiles) -> None:
        self.files = files
        self._child: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id, or None when it is not running."""
        return self._child.pid if self._child is not None else None

    async def open(self) -> Ready:
        """Start the child and read the tokenizer. Raises NoTokenIds."""
        async with self._lock:
            return await self._start()

    async def build(self, prompt: Prompt, max_tokens: int, window: int) -> Built:
        """Build a prompt. Raises RequestFailed as PromptBuilder.build, and NoTokenIds if the child fails."""
        # A cancelled caller leaves no half-read answer in the pipe.
        return await asyncio.shield(asyncio.create_task(self._build(Build(prompt, max_tokens, window))))

    async def close(self) -> None:
        """End the child, for good; prompts that are being built raise NoTokenIds."""
        self._closed = True
        self._kill()
        async with self._lock:  # the reader of an answer sees its end first
            await self._end()

    async def _build(self, asked: Build) -> Built:
        async with self._lock:
            if self._child is None:
                await self._start()
            answer = await self._exchange(asked, BUILD_S)
        match answer:
            case Built():
                return answer
            case PromptRefused(reason):
                raise RequestFailed(reason)
            case Ready():
                await self._end()
                raise NoTokenIds("the process of the tokenizer sent something else than a prompt")

    def _kill(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    async def _end(self) -> None:
        self._kill()
        child, self._child = self._child, None
        if child is not None:
            await child.communicate()

    async def _start(self) -> Ready:
        files = self.files
        if self._closed:
            raise NoTokenIds("the tokenizer's process was ended")
        try:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", CHILD, files.folder, files.template, files.name),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # what goes wrong comes as PromptRefused
                env=child_environment() | {"TRANSFORMERS_VERBOSITY": "error"},
            )
        except OSError as error:  # no memory, or too many processes or open files
            raise NoTokenIds(f"the process of the tokenizer cannot be started ({error.strerror or error})") from error
        if self._closed:
            self._kill()
        answer = await self._exchange(None, START_S)
        if isinstance(answer, Ready):
            return answer
        await self._end()
        raise NoTokenIds(
            answer.reason if isinstance(answer, PromptRefused) else "the tokenizer's process is out of order"
        )

    async def _exchange(self, asked: Build | None, seconds: float) -> Answer:
        """Send a message, if there is one, and return the answer. Raises NoTokenIds; the child has ended then."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                if asked is not None:
                    child.stdin.write(frame(asked))
                    await child.stdin.drain()
                length = int.from_bytes(await child.stdout.readexactly(HEADER), "big")
                if length > MAX_FRAME:
                    raise msgspec.DecodeError(f"a frame announces {length} bytes")
                return _decoder.decode(await child.stdout.readexactly(length))
        except BaseException as error:
            await self._end()
            match error:
                case TimeoutError():
                    raise NoTokenIds(f"the tokenizer takes longer than {seconds:.0f} s") from error
                case OSError() | asyncio.IncompleteReadError():
                    raise NoTokenIds("the tokenizer's process ended") from error
                case msgspec.MsgspecError():
                    raise NoTokenIds(f"the tokenizer's process sent an invalid message ({error})") from error
            raise
