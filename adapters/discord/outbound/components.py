"""The buttons under a reply, which carry their action and the reply's id in their custom_id.

So they work after a restart, and a reply is found again in a channel's history.
"""

from collections.abc import Iterable

import discord

from bot.types.buttons import Button, button_id, parse_button_id
from bot.types.messages import ActionKind, Reply

_ButtonStyle = tuple[str | None, str | None, discord.ButtonStyle]
BUTTON_STYLES: dict[ActionKind, _ButtonStyle] = {
    ActionKind.STOP: ("Stop", None, discord.ButtonStyle.danger),
    ActionKind.REGENERATE: ("Regenerate", None, discord.ButtonStyle.secondary),
    ActionKind.CONTINUE: ("Continue", None, discord.ButtonStyle.primary),
    ActionKind.RERUN: ("Answer the edited question", None, discord.ButtonStyle.primary),
    ActionKind.THOUGHTS: ("Thoughts", None, discord.ButtonStyle.secondary),
    ActionKind.GOOD: (None, "👍", discord.ButtonStyle.secondary),
    ActionKind.BAD: (None, "👎", discord.ButtonStyle.secondary),
}


def view_of(reply: Reply) -> discord.ui.View | None:
    """The buttons of a reply, or None if it has none."""
    if not reply.buttons:
        return None
    view = discord.ui.View(timeout=None)
    for kind in reply.buttons:
        label, emoji, style = BUTTON_STYLES[kind]
        view.add_item(discord.ui.Button(label=label, emoji=emoji, style=style, custom_id=button_id(kind, reply)))
    view.stop()  # else discord.py stores the view for ever; presses are read from their custom_id
    return view


def buttons_of(message: discord.Message) -> Iterable[Button]:
    """Our buttons under a message."""
    for row in message.components:
        for each in row.children if isinstance(row, discord.ActionRow) else ():
            found = parse_button_id(each.custom_id) if isinstance(each, discord.Button) and each.custom_id else None
            if found:
                yield found
