"""The help text of the slash command, and the menu of models under it.

The menu's choices carry the model's name, so that they work after a restart.
"""

from collections.abc import Sequence

from slack_sdk.models.blocks import ActionsBlock, Option, PlainTextObject, StaticSelectElement

from adapters.slack.interactions.ephemeral_replies import Block
from adapters.slack.payloads import Raw, object_of, text_of
from bot.types.commands import help_text, similar_commands
from bot.types.display_names import as_code
from bot.types.messages import Choice

MODEL_ACTION = "inhouse_model"
"""The action_id of the menu of models."""
PLACEHOLDER = "Another model for this channel"
MAX_OPTIONS, MAX_LABEL, MAX_VALUE = 100, 75, 75
IN_THREADS = (
    "I answer mentions, direct messages, and every message in a thread that I take part in. Slack has no slash "
    "commands in threads: write `!model` or `!stop` there."
)


def help_text_for(slash: str, settings: str) -> str:
    """The commands and the settings in force. `slash`: the name of the slash command."""
    return f"{help_text(f'{slash} ')}\n\n{IN_THREADS}\n\nSettings in use here:\n\n{settings}"


def unknown_command(word: str, slash: str) -> str:
    """The error for an unknown command."""
    return f"There is no command {as_code(word, 40)}{similar_commands(word) or '.'} `{slash} help` shows them all."


def model_menu(models: Sequence[Choice]) -> tuple[Block, ...]:
    """A block with the models to choose from; empty if there are none."""
    offered = [each for each in models if 0 < len(each.value) <= MAX_VALUE][:MAX_OPTIONS]
    if not offered:
        return ()
    options = [Option(value=each.value, text=PlainTextObject(text=_cut(each.label), emoji=False)) for each in offered]
    select = StaticSelectElement(action_id=MODEL_ACTION, placeholder=PLACEHOLDER, options=options)
    return (ActionsBlock(elements=[select]).to_dict(),)


def chosen_model(element: Raw) -> str | None:
    """The model chosen in the menu; None for any other element."""
    if text_of(element, "action_id") != MODEL_ACTION:
        return None
    return text_of(object_of(element, "selected_option"), "value")


def _cut(label: str) -> str:
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
