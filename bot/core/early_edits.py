"""Edits that arrive before their message is stored: its files are still being read, or it will be delivered again."""

from collections import OrderedDict
from dataclasses import replace

from bot.types.messages import ConversationKey, IncomingMessage, MessageEdited

MOST = 100
"""Edits that are remembered; most are of messages that do not concern the bot, so they are in memory only."""

Message = tuple[str, str, str, str]


class EarlyEdits:
    """The latest edits of messages that are not stored, with their files."""

    def __init__(self) -> None:
        self._edits: OrderedDict[Message, MessageEdited] = OrderedDict()

    def keep(self, edit: MessageEdited) -> None:
        """Remember an edit, unless a newer one of its message is."""
        message = _message(edit.key, edit.message_id)
        earlier = self._edits.get(message)
        if earlier is None or earlier.edited_at <= edit.edited_at:
            self._edits[message] = edit
            self._edits.move_to_end(message)
        if len(self._edits) > MOST:
            self._edits.popitem(last=False)

    def drop(self, key: ConversationKey, message_id: str) -> None:
        """Forget the edit of a message that is stored or deleted."""
        self._edits.pop(_message(key, message_id), None)

    def newer(self, message: IncomingMessage) -> MessageEdited | None:
        """Return the remembered edit of a message, if it is newer than the message's text."""
        edit = self._edits.get(_message(message.key, message.message_id))
        return edit if edit is not None and edit.edited_at > message.edited_at else None

    def applied(self, message: IncomingMessage) -> IncomingMessage:
        """Return a message as it was last edited."""
        edit = self.newer(message)
        if edit is None:
            return message
        return replace(
            message, text=edit.text, attachments=edit.attachments, pictures=edit.pictures, edited_at=edit.edited_at
        )


def _message(key: ConversationKey, message_id: str) -> Message:
    return (key.platform, key.workspace, key.channel, message_id)
