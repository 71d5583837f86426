"""Composes the messages of one answer; pure functions of its text.

What is committed while the answer grows is a beginning of what is shown in the end, and no message is longer than the
platform takes. The time for one frame is linear in the text, and of a text that is shown as a file only the beginning
is rendered.
"""

import hashlib
from collections.abc import Set
from dataclasses import dataclass, replace

from bot.adapter import Limits
from bot.dialects import render, settled
from bot.formatting import Part, between_entities, closed, open_fence, split, without_bidi_controls
from bot.messages import ActionKind, Attachment, FinishReason, GenerationRequest, Reply, Usage

THE_REST = "*(The whole answer is in the file.)*"
OUTGROWN = "*(This conversation has outgrown what I can read at once; from now on its oldest messages stay out.)*"
FILE = "answer.md"
_RENDERED = 2
"""How much of an answer is rendered, in times of what is shown before the rest comes as a file."""


def reply_id(request_id: str, part: int) -> str:
    """The name of one message of an answer: the same after every restart, and short enough for Discord's nonce."""
    return hashlib.blake2s(f"{request_id}/{part}".encode(), digest_size=10).hexdigest()


@dataclass(slots=True)
class Composer:
    """Composes the messages of the answer to one request.

    note: a sentence above the answer. before: text in an earlier message that this answer continues. links: URLs that
    people wrote, which may be shown as links. edited: the question was changed, so another answer is offered. outgrown:
    for the first time not all of the conversation was read, which is said below the answer.
    """

    request: GenerationRequest
    limits: Limits
    note: str = ""
    before: str = ""
    links: Set[str] = frozenset()
    edited: bool = False
    outgrown: bool = False

    def growing(self, text: str, line: str) -> list[Reply]:
        """The messages while the answer is being written; without text it is `line`, or nothing."""
        if not text.strip():
            return [self._reply(0, "", self._ours(line), (ActionKind.STOP,))] if line else []
        source, _ = self._source(text)
        sure = self._parts(self._shown(source[: settled(source, self.limits.dialect)]))
        commits = [part.text[: part.committed] for part in sure]
        parts = self._parts(self._shown(source))
        commits += [""] * (len(parts) - len(commits))
        frames = [
            self._reply(number, committed, part.text[len(committed) :])
            for number, (part, committed) in enumerate(zip(parts, commits, strict=True))
        ]
        frames[0] = replace(frames[0], buttons=(ActionKind.STOP,))
        frames[-1] = replace(frames[-1], tail=frames[-1].tail + self.limits.cursor)
        return frames

    def final(self, text: str, reason: FinishReason, usage: Usage | None, error: str) -> list[Reply]:
        """The messages of the answer when it has ended."""
        source, whole = self._source(text)
        shown = self._shown(source).rstrip() if text.strip() else ""
        beginning = self._beginning(shown)
        cut = not whole or len(beginning) < len(shown)
        ending = [THE_REST] if cut else []
        if reason is FinishReason.ERROR:
            ending.append(f"⚠️ {self._ours(error)}")
        elif not shown:
            ending.append("Stopped." if reason is FinishReason.ABORT else "(The model had nothing to say.)")
        ending += [OUTGROWN] if self.outgrown else []
        if ending:
            beginning = "\n\n".join([*filter(None, [closed(beginning)]), *ending])
        frames = [
            replace(self._reply(number, part.text), final=True)
            for number, part in enumerate(split(beginning, self._room()))
        ]
        # The first part carries the buttons: by them it is recognised as ours after a crash.
        frames[0] = replace(frames[0], buttons=self._buttons(reason, bool(shown)))
        file = Attachment(FILE, text) if cut else None
        frames[-1] = replace(frames[-1], finish_reason=reason, usage=usage, attachment=file)
        return frames

    def _source(self, text: str) -> tuple[str, bool]:
        """What of `text` may be shown in messages, and whether that is all of it.

        It is a message of its own, so it must open the code that it goes on with.
        """
        fence, text = open_fence(self.before), without_bidi_controls(text)
        source = f"{fence}\n{text.lstrip(chr(10))}" if fence else text.lstrip()
        most = _RENDERED * self.limits.attach_over
        return (source, True) if not most or len(source.rstrip()) <= most else (source[:most], False)

    def _shown(self, text: str) -> str:
        text = render(text, self.limits.dialect, self.links)
        return f"{self._ours(self.note)}\n\n{text}" if self.note else text

    def _room(self) -> int:
        """Characters of one message; as many in the end as before, or else every message would change then."""
        return self.limits.max_chars - len(self.limits.cursor)

    def _parts(self, shown: str) -> list[Part]:
        return split(self._beginning(shown), self._room())

    def _beginning(self, text: str) -> str:
        """What of a text is shown in messages, where the rest comes as a file."""
        most = self.limits.attach_over
        return text[: between_entities(text, most)].rstrip() if most and len(text) > most else text

    def _ours(self, text: str) -> str:
        """Words of our own, in which names of files and people may stand, and whatever they are called."""
        return render(text, self.limits.dialect, frozenset())

    def _buttons(self, reason: FinishReason, begun: bool) -> tuple[ActionKind, ...]:
        again = (ActionKind.RERUN if self.edited else ActionKind.REGENERATE,)
        if reason is FinishReason.ERROR:
            return again
        more = (ActionKind.CONTINUE,) if begun and reason in (FinishReason.LENGTH, FinishReason.ABORT) else ()
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
