"""The conversations for every peer, and one client for all.

The client talks to OpenAI's /v1/chat/completions and returns for each answer the time to its first text, the server's
token counts, and errors. Prompts differ in every round.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import aiohttp

TURNS = 3
ANSWER_S = 420.0
"""Time limit for an answer; sixteen sequential answers of generate() take 70 s on two cores."""
SUBJECTS = (
    "the sea", "a lighthouse", "two brothers", "an old clock", "the moon", "a train", "a forest", "a baker",
    "a river", "a lost letter", "a violin", "the desert", "a small inn", "a blue door", "an island", "a winter",
)  # fmt: skip
GO_ON = (
    "Go on with the story, and tell in many words what happened in the following night.",
    "Go on with the story, and tell in many words what people said about it years later.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `turn` counts from 0. `first_s`: seconds to its first text. `error`: why it is not counted."""

    turn: int
    first_s: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    text: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """A peer's client. `extra`: request fields that only this peer needs."""

    session: aiohttp.ClientSession
    url: str
    model: str
    extra: Mapping[str, Any]

    async def ask(self, name: str, turn: int, messages: list[dict[str, str]], tokens: int) -> Answer:
        """One streamed answer. `name` is the conversation's."""
        body = {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0.0, "stream": True}
        stream: dict[str, Any] = {"stream_options": {"include_usage": True}}
        first_s, text, usage, began = 0.0, "", dict[str, int](), perf_counter()
        try:
            request = self.session.post(
                f"{self.url}/v1/chat/completions",
                json=body | stream | dict(self.extra),
                headers={"X-Conversation": name},
                timeout=aiohttp.ClientTimeout(total=ANSWER_S),
            )
            async with request as response:
                if response.status != 200:
                    return Answer(turn, error=f"HTTP {response.status}: {(await response.text())[:200]}")
                async for line in response.content:
                    if not line.startswith(b"data:") or b"[DONE]" in line:
                        continue
                    chunk = json.loads(line[5:])
                    if "error" in chunk:
                        return Answer(turn, error=str(chunk["error"])[:200])
                    usage = chunk.get("usage") or usage
                    said = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
                    if said and not first_s:
                        first_s = perf_counter() - began
                    text += said
        except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
            return Answer(turn, error=f"{type(problem).__name__}: {problem}"[:200])
        if not usage or not text.strip():
            return Answer(turn, error="no usage" if text.strip() else "no text")
        return Answer(turn, first_s, usage["completion_tokens"], usage["prompt_tokens"], text)


async def converse(client: Client, name: str, subject: str, tokens: int, turns: int = TURNS) -> list[Answer]:
    """Runs one conversation without pauses between turns. Ends at its first error."""
    answers: list[Answer] = []
    messages: list[dict[str, str]] = []
    for turn in range(turns):
        question = GO_ON[(turn - 1) % len(GO_ON)] if turn else f"{name}: write a long story about {subject}."
        messages.append({"role": "user", "content": question})
        answers.append(await client.ask(name, turn, messages, tokens))
        if answers[-1].error:
            break
        messages.append({"role": "assistant", "content": answers[-1].text.strip()})
    return answers


async def talk(client: Client, round_name: str, conversations: int, tokens: int) -> tuple[float, list[Answer]]:
    """Runs all conversations at once; the seconds that it took, and all answers."""
    began = perf_counter()
    told = await asyncio.gather(
        *(
            converse(client, f"{round_name}-{number}", SUBJECTS[number % len(SUBJECTS)], tokens)
            for number in range(conversations)
        )
    )
    return perf_counter() - began, [answer for answers in told for answer in answers]
