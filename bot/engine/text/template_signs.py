"""Reads from a chat template's source what its model can do; needs no tokenizer."""

from bot.types.engine import Capabilities

THINKING = ("<think>", "[THINK]", "enable_thinking", "reasoning_content", "<|channel|>", "<|channel>")
"""What the templates of reasoning models mention: their tags, their switches, or the field of earlier thoughts."""
TOOLS = "tools"
"""The variable by which templates describe functions."""


def capabilities_of(template: str) -> Capabilities:
    """Return what the template says; whether the model sees pictures is not in it."""
    return Capabilities(reasoning=any(sign in template for sign in THINKING), tools=TOOLS in template)
