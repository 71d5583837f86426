"""Sanitizes text for a terminal and formats the statistics line below an answer. Pure functions."""

import re

from bot.platforms.splitter import without_bidi_controls
from bot.types.messages import FinishReason, Reply

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Remove control characters: model output must not move the cursor, ring the bell or set the title."""
    return without_bidi_controls(_CONTROLS.sub("", text))


def footer(reply: Reply) -> str:
    """Format statistics: 'Generated 90 tokens in 4.2 s (21.4 tokens/s), first after 0.3 s', and notes on the end.

    The time is prefill plus decode; the time of the first token includes the queue. '' if nothing was generated.
    """
    usage = reply.usage
    if usage is None or not usage.generated_tokens:
        return ""
    seconds = usage.prefill_s + usage.decode_s
    rate = f" ({usage.generated_tokens / seconds:.1f} tokens/s)" if seconds > 0 else ""
    tokens = "token" if usage.generated_tokens == 1 else "tokens"
    line = f"Generated {usage.generated_tokens} {tokens} in {seconds:.1f} s{rate}"
    line += f", first after {usage.queue_s + usage.prefill_s:.1f} s"
    if reply.finish_reason is FinishReason.ABORT:
        line += "; stopped"
    if reply.finish_reason is FinishReason.LENGTH:
        line += "; cut at max_tokens, /continue goes on"
    if usage.dropped_turns:
        line += f"; the oldest {usage.dropped_turns} messages did not fit, see /why"
    return line
