"""Text made fit for a terminal, and the quiet line under an answer. Pure functions."""

import re

from bot.platforms.splitter import without_bidi_controls
from bot.types.messages import FinishReason, Reply

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` without control characters: what a model writes must not move the cursor, ring or change the title."""
    return without_bidi_controls(_CONTROLS.sub("", text))


def footer(reply: Reply) -> str:
    """What an answer cost: 'Generated 90 tokens in 4.2 s (21.4 tokens/s), first after 0.3 s', and what else to know.

    The time is that of prefill and decode; the first token also had to wait in the queue. '' if nothing was generated.
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
