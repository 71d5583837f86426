"""Builds the messages of a chat request: cuts the history to the context window, and defuses control tokens.

A server puts text through its chat template before it tokenises it, so `<|im_end|>` in what a person writes would end
their message there. The model's own control tokens are broken up if its tokenizer is on this machine, else their
general forms.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bot.engine.remote.profiles import Continuation
from bot.engine.text.literal_matcher import LiteralMatcher
from bot.engine.text.turns import first_kept, fit_pictures, merged_pictures, merged_texts, named, next_user
from bot.types.errors import RequestFailed
from bot.types.messages import Picture, Prompt, Role, Turn

AROUND = 8
"""Tokens that a template adds to each message, at most."""

BREAK = "\u200b"
"""A zero-width space: people see no difference, and a tokenizer sees no control token."""

CONTROL = re.compile(
    r"<(?=\|)"  # <|im_start|>, <|eot_id|>, <|channel>
    r"|<(?=\uff5c)"  # DeepSeek's fullwidth bars
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|think|start_of_turn|end_of_turn|tool_call|tool_response|image|unused\d{1,4})>)"
    r"|<(?=/?(?:turn|channel|tool|start_of_image|end_of_image|audio|fim_[a-z]{1,10})\|?>)"
    r"|<(?=(?:repo_?name|filename|file_sep|gh_stars|empty_output|(?:issue|jupyter|commit)_[a-z]{1,10})>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK|IMG|CALL_ID|ARGS)\])"
    r"|<(?=</?SYS>>)",
    re.IGNORECASE,
)
"""First characters of control tokens: of ChatML, Llama, Gemma, Mistral, Qwen, DeepSeek, gpt-oss and SmolLM."""

GO_ON = "Continue your last answer exactly where it stopped; do not repeat anything."


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages of a request. `tokens`: estimated tokens of them. `dropped_turns`: oldest turns that were left out.

    ids: the whole prompt as token ids, instead of messages; `tokens` is their number. defused: whether a control token
    was broken up. pictures: number of pictures in the messages.
    """

    messages: list[dict[str, Any]]  # Any: a text, or a list of parts
    tokens: int
    dropped_turns: int
    ids: Sequence[int] = ()
    defused: bool = False
    pictures: int = 0
    dropped_pictures: int = 0


Defuse = Callable[[str], str]
"""Breaks up control tokens in a text."""


def defuse_forms(text: str) -> str:
    """Break up what a tokenizer could take for a control token."""
    return CONTROL.sub(lambda found: found[0] + BREAK, text)


def defuse_tokens(control: Iterable[str]) -> Defuse:
    """Return a function that breaks up these control tokens, and nothing else."""
    matcher = LiteralMatcher(control)
    return lambda text: matcher.replace(text, lambda found: found[: len(found) > 1] + BREAK + found[1:])


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text without its tokenizer: 3.5 ASCII characters, or 1 other character, are a token."""
    ascii_only = len(text.encode("ascii", "ignore"))
    return round(ascii_only / 3.5) + len(text) - ascii_only


def estimate_picture(picture: Picture) -> int:
    """Estimate the tokens of a picture: models take one for 750 to 1,024 pixels, or a fixed number near 256."""
    return max(256, picture.width * picture.height // 750)


def _part(picture: Picture) -> dict[str, Any]:  # Any: JSON
    """A picture as a part of a message. It is sent itself: an address would make the server fetch it."""
    data = base64.b64encode(picture.data).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:{picture.kind};base64,{data}"}}


def build_chat(prompt: Prompt, budget: float, continuation: Continuation, defuse: Defuse = defuse_forms) -> Chat:
    """Return the messages for `prompt`, of at most `budget` estimated tokens; the oldest turns are dropped first.

    The system prompt and the last question are always included. Raises RequestFailed if there is no question.
    """
    turns = [turn for turn in prompt.turns if turn.text.strip()]
    user = [turn.role is not Role.ASSISTANT for turn in turns]
    if not turns or not user[-1]:
        raise RequestFailed("There is no question to answer: the last message is empty. Write one with some text.")
    opening = next_user(user, 0)
    costs = [AROUND + estimate_tokens(named(turn)) for turn in turns]
    fixed = AROUND + estimate_tokens(prompt.system) + estimate_tokens(prompt.prefix)
    turns, costs, dropped = fit_pictures(turns, costs, fixed, round(budget), estimate_picture)
    start = first_kept(costs, user, fixed, round(budget))
    broken: list[bool] = []

    def noted(text: str) -> str:
        broken.append((new := defuse(text)) != text)
        return new

    messages = _messages(prompt, turns[start:], continuation, noted)
    shown = sum(len(turn.pictures) for turn in turns[start:])
    dropped += sum(len(turn.pictures) for turn in turns[:start])
    tokens = fixed + sum(costs[start:])
    return Chat(messages, tokens, start - opening, (), any(broken), shown, dropped)


def _messages(
    prompt: Prompt, turns: Sequence[Turn], continuation: Continuation, defuse: Defuse
) -> list[dict[str, Any]]:  # Any: a text, or a list of parts
    messages: list[dict[str, Any]] = []
    if prompt.system.strip():
        messages.append({"role": "system", "content": defuse(prompt.system)})
    role, other = "user", "assistant"
    for text, pictures in zip(merged_texts(turns), merged_pictures(turns), strict=True):
        said = {"type": "text", "text": defuse(text)}
        messages.append({"role": role, "content": [*map(_part, pictures), said] if pictures else said["text"]})
        role, other = other, role
    if prompt.prefix:
        messages.append({"role": "assistant", "content": defuse(prompt.prefix)})
        if continuation is Continuation.ASK:
            messages.append({"role": "user", "content": GO_ON})
    return messages
