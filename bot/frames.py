"""The messages of one answer, as they should look: pure functions of its text.

In: the text so far and what is known around it (a remark, the text it continues, the platform's limits). Out: replies.
It promises that everything shown while the answer grows is a beginning of what is shown in the end.
"""

import hashlib
from collections.abc import Set
from dataclasses import dataclass, replace

from bot.adapter import Limits
from bot.dialects import render
from bot.formatting import open_fence, split
from bot.messages import ActionKind, Attachment, FinishReason, GenerationRequest, Reply, Usage

THE_REST = "*(The whole answer is in the file.)*"
FILE = "answer.md"


def reply_id(request_id: str, part: int) -> str:
    """The name of one message of an answer: the same after every restart, and short enough for Discord's nonce."""
    return hashlib.blake2s(f"{request_id}/{part}".encode(), digest_size=10).hexdigest()


@dataclass(slots=True)
class Composer:
    """Composes the messages of the answer to one request.

    note: a sentence above the answer. before: text in an earlier message that this answer continues. links: URLs that
    people wrote, which may be shown as links. edited: the question was changed, so another answer is offered.
    """

    request: GenerationRequest
    limits: Limits
    note: str = ""
    before: str = ""
    links: Set[str] = frozenset()
    edited: bool = False

    def growing(self, text: str, line: str) -> list[Reply]:
        """The messages while the answer is being written; without text it is `line`, or nothing."""
        shown = self._shown(text)
        if not shown:
            return [self._reply(0, "", line, (ActionKind.STOP,))] if line else []
        parts = split(self._beginning(shown), self.limits.max_chars - len(self.limits.cursor))
        frames = [self._reply(number, part.text) for number, part in enumerate(parts[:-1])]
        last = parts[-1]
        tail = last.text[last.committed :] + self.limits.cursor
        frames.append(self._reply(len(frames), last.text[: last.committed], tail))
        frames[0] = replace(frames[0], buttons=(ActionKind.STOP,))
        return frames

    def final(self, text: str, reason: FinishReason, usage: Usage | None, error: str) -> list[Reply]:
        """The messages of the answer when it has ended."""
        shown = self._shown(text).rstrip()
        if reason is FinishReason.ERROR:
            shown = f"{shown}\n\n⚠️ {error}".strip()
        elif not shown:
            shown = "Stopped." if reason is FinishReason.ABORT else "(The model had nothing to say.)"
        beginning = self._beginning(shown)
        if len(beginning) < len(shown):
            closed = split(beginning, len(beginning) + self.limits.max_chars)[0].text  # with its code fence closed
            beginning = f"{closed}\n\n{THE_REST}"
        frames = [
            replace(self._reply(number, part.text), final=True)
            for number, part in enumerate(split(beginning, self.limits.max_chars))
        ]
        # The first part carries the buttons: by them it is recognised as ours after a crash.
        frames[0] = replace(frames[0], buttons=self._buttons(reason))
        file = Attachment(FILE, text) if beginning.endswith(THE_REST) else None
        frames[-1] = replace(frames[-1], finish_reason=reason, usage=usage, attachment=file)
        return frames

    def _shown(self, text: str) -> str:
        if not text.strip():
            return ""
        fence = open_fence(self.before)  # a message of its own must open the code that it goes on with
        text = f"{fence}\n{text.lstrip(chr(10))}" if fence else text.lstrip()
        text = render(text, self.limits.dialect, self.links)
        return f"{self.note}\n\n{text}" if self.note else text

    def _beginning(self, text: str) -> str:
        """What of a text is shown in messages, where the rest comes as a file."""
        most = self.limits.attach_over
        return text[:most].rstrip() if most and len(text) > most else text

    def _buttons(self, reason: FinishReason) -> tuple[ActionKind, ...]:
        again = (ActionKind.RERUN if self.edited else ActionKind.REGENERATE,)
        if reason is FinishReason.ERROR:
            return again
        more = (ActionKind.CONTINUE,) if reason in (FinishReason.LENGTH, FinishReason.ABORT) else ()
        return (*again, *more, ActionKind.GOOD, ActionKind.BAD)

    def _reply(self, part: int, committed: str, tail: str = "", buttons: tuple[ActionKind, ...] = ()) -> Reply:
        request = self.request
        return Reply(
            reply_id=reply_id(request.request_id, part),
            request_id=request.request_id,
            key=request.key,
            part=part,
            question_id=request.message_id,
            asker=request.author,
            committed=committed,
            tail=tail,
            buttons=buttons,
        )
