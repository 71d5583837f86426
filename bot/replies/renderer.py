"""Composes the messages of one answer: rendered Markdown, or plain text where rendering takes too long.

The committed part of a partial answer is a prefix of the final one, and each message fits the platform's limit. Only
the text that messages can show is rendered; a longer answer is cut and attached as a file.
"""

import hashlib
from collections.abc import Set
from dataclasses import dataclass, fields, replace
from typing import Self

from bot.platforms.adapter import Dialect, Limits
from bot.platforms.splitter import Part, beginning, closed, safe_cut, split, without_bidi_controls
from bot.replies.links import KnownLinks
from bot.replies.markdown import fence_to_continue, render, stable_prefix
from bot.types.messages import ActionKind, Attachment, FinishReason, GenerationRequest, Reply, Usage

THE_REST = "*(The whole answer is in the file.)*"
OUTGROWN = "*(This conversation has outgrown what I can read at once; from now on its oldest messages stay out.)*"
ONLY_THOUGHT = "(The model spent all its tokens on thinking and has not begun to answer. Continue gives it more.)"
THOUGHT_ONLY = "(The model thought about it, but wrote no answer.)"
ENDS_HERE = "*(The answer ends here.)*"
INTERRUPTED = "*(I was stopped twice while I showed this answer, so it comes as a file.)*"
FILE = "answer.md"

_RENDERED = 2
"""Maximum text to render, as a multiple of `attach_over`, the length at which an answer is cut."""

_BOX = "```\n", "\n```"
_TWO_TICKS = "`\u200b`"
"""Replaces two backticks, so that no run of three closes the code block."""


def reply_id(request_id: str, part: int) -> str:
    """Derive the id of one message of an answer: stable across restarts, short enough for Discord's nonce."""
    return hashlib.blake2s(f"{request_id}/{part}".encode(), digest_size=10).hexdigest()


@dataclass(slots=True)
class Renderer:
    """Composes the messages of the answer to one request.

    note: a sentence above the answer. before: text of an earlier message that this answer continues. links: URLs that
    users wrote, which may become links. link_hosts: hosts of which all URLs may become links. edited: the question was
    edited, so offer a rerun. outgrown: turns were dropped for the first time, so say that below the answer. thought:
    there are thoughts beside the answer.
    """

    request: GenerationRequest
    limits: Limits
    note: str = ""
    before: str = ""
    links: Set[str] = frozenset()
    link_hosts: Set[str] = frozenset()
    edited: bool = False
    outgrown: bool = False
    thought: bool = False

    def render_partial(self, text: str, line: str) -> list[Reply]:
        """Compose the messages of an unfinished answer; while it has no text, only `line`, or nothing."""
        if not text.strip():
            return [self._reply(0, "", self._render_notice(line), (ActionKind.STOP,))] if line else []
        source, _ = self._source(text)
        sure = self._parts(self._rendered(source[: self._stable_prefix(source)]))
        commits = [part.text[: part.committed] for part in sure]
        parts = self._parts(self._rendered(source))
        commits += [""] * (len(parts) - len(commits))
        frames = [
            self._reply(number, committed, part.text[len(committed) :])
            for number, (part, committed) in enumerate(zip(parts, commits, strict=True))
        ]
        for shown in (0, -1):  # the first part, and the one that is being written
            frames[shown] = replace(frames[shown], buttons=(ActionKind.STOP,))
        frames[-1] = replace(frames[-1], tail=frames[-1].tail + self.limits.cursor)
        return frames

    def render_final(self, text: str, reason: FinishReason, usage: Usage | None, error: str) -> list[Reply]:
        """Compose the messages of a finished answer."""
        source, whole = self._source(text)
        shown = self._rendered(source).rstrip() if text.strip() else ""
        kept = self._beginning_shown(shown)
        cut = not whole or kept != shown
        ending = [THE_REST] if cut else []
        if reason is FinishReason.ERROR:
            ending.append(f"⚠️ {self._render_notice(error)}")
        elif not shown:
            ending.append(self._nothing(reason))
        ending += [OUTGROWN] if self.outgrown else []
        if not ending and self._ends_in_cursor(shown):
            ending.append(ENDS_HERE)
        if ending:
            kept = "\n\n".join([*filter(None, [self._closed(kept)]), *ending])
        frames = [replace(self._reply(number, part.text), final=True) for number, part in enumerate(self._split(kept))]
        # The first part has the buttons, which identify it as ours after a crash.
        frames[0] = replace(frames[0], buttons=self._buttons(reason, bool(shown)))
        file = Attachment(FILE, text) if cut else None
        frames[-1] = replace(frames[-1], finish_reason=reason, usage=usage, attachment=file)
        return frames

    def render_as_file(self, text: str, reason: FinishReason, usage: Usage | None, error: str) -> list[Reply]:
        """Compose a finished answer as a file without rendering its text; an empty one as `render_final` does."""
        if not text.strip():
            return self.render_final(text, reason, usage, error)
        lines = [INTERRUPTED] + ([f"⚠️ {self._render_notice(error)}"] if reason is FinishReason.ERROR else [])
        reply = self._reply(0, "\n\n".join(lines), buttons=self._buttons(reason, True))
        return [replace(reply, final=True, finish_reason=reason, usage=usage, attachment=Attachment(FILE, text))]

    def _source(self, text: str) -> tuple[str, bool]:
        """Return the part of `text` that messages may show, and whether that is all of it.

        A continuation is a new message, so it reopens the code block that it continues.
        """
        fence = fence_to_continue(self.before)
        source, whole = self._truncated(f"{fence}\n{text.lstrip(chr(10))}" if fence else text.lstrip())
        return without_bidi_controls(source), whole

    def _truncated(self, source: str) -> tuple[str, bool]:
        most = _RENDERED * self.limits.attach_over
        return (source, True) if not most or len(source.rstrip()) <= most else (source[:most], False)

    def _stable_prefix(self, source: str) -> int:
        """Number of leading characters whose rendering later text cannot change."""
        return stable_prefix(source, self.limits.dialect)

    def _ends_in_cursor(self, shown: str) -> bool:
        """Whether the last visible character equals the cursor of an unfinished answer."""
        sign, end = self.limits.cursor.strip(), len(shown)
        while end and (shown[end - 1] in "*_~`|" or not shown[end - 1].isprintable() or shown[end - 1].isspace()):
            end -= 1
        return bool(sign) and shown.endswith(sign, 0, end)

    def _rendered(self, text: str) -> str:
        text = render(text, self.limits.dialect, KnownLinks(self.links, self.link_hosts))
        return f"{self._render_notice(self.note)}\n\n{text}" if self.note else text

    def _max_part_chars(self) -> int:
        """Characters per message; the final answer reserves the cursor too, or every split would move at the end."""
        return self.limits.max_chars - len(self.limits.cursor)

    def _parts(self, shown: str) -> list[Part]:
        return self._split(self._beginning_shown(shown))

    def _split(self, text: str) -> list[Part]:
        return split(text, self._max_part_chars())

    def _closed(self, text: str) -> str:
        return closed(text)

    def _beginning_shown(self, text: str) -> str:
        """Cut a text to the part that messages show; the whole answer is then attached as a file."""
        most = self.limits.attach_over
        return beginning(text, most) if most else text

    def _render_notice(self, text: str) -> str:
        """Render a sentence of Inhouse, which may contain untrusted names, without links."""
        return render(text, self.limits.dialect, KnownLinks())

    def _nothing(self, reason: FinishReason) -> str:
        """What stands in place of an answer without text."""
        if reason is FinishReason.ABORT:
            return "Stopped."
        if not self.thought:
            return "(The model had nothing to say.)"
        return ONLY_THOUGHT if reason is FinishReason.LENGTH else THOUGHT_ONLY

    def _buttons(self, reason: FinishReason, begun: bool) -> tuple[ActionKind, ...]:
        again = (ActionKind.RERUN if self.edited else ActionKind.REGENERATE,)
        if reason is FinishReason.ERROR:
            return again
        thoughts = (ActionKind.THOUGHTS,) if self.thought else ()
        if reason is FinishReason.ABORT and not begun:  # there is nothing to rate
            return (*again, *thoughts)
        unfinished = reason is FinishReason.LENGTH and (begun or self.thought)
        more = (ActionKind.CONTINUE,) if unfinished or (begun and reason is FinishReason.ABORT) else ()
        return (*again, *more, *thoughts, ActionKind.GOOD, ActionKind.BAD)

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


@dataclass(slots=True)
class PlainRenderer(Renderer):
    """Shows text as a code block, without any markup, mentions or links.

    The cost is a few copies of the shown text, independent of its content.
    """

    @classmethod
    def of(cls, composer: Renderer) -> Self:
        """Copy another composer's fields."""
        return cls(**{field.name: getattr(composer, field.name) for field in fields(composer)})

    def _source(self, text: str) -> tuple[str, bool]:
        return self._truncated(text.lstrip())

    def _stable_prefix(self, source: str) -> int:
        return len(source)

    def _rendered(self, text: str) -> str:
        return self._render_notice(f"{self.note}\n\n{text}" if self.note else text)

    def _render_notice(self, text: str) -> str:
        if self.limits.dialect is Dialect.SLACK:
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return without_bidi_controls(text).replace("``", _TWO_TICKS)

    def _closed(self, text: str) -> str:
        return text

    def _beginning_shown(self, text: str) -> str:
        most = self.limits.attach_over
        return text[: safe_cut(text, most)] if most and len(text) > most else text

    def _split(self, text: str) -> list[Part]:
        """Split into code blocks, cut after a line or word in the second half of a message where possible."""
        (before, after), text = _BOX, text.rstrip()
        room, start = self._max_part_chars() - len(before + after), 0
        parts: list[Part] = []
        while len(text) - start > room:
            half, end = start + room // 2, start + room
            cut = max(text.rfind("\n", half, end), text.rfind(" ", half, end)) + 1 or safe_cut(text, end)
            parts.append(Part(f"{before}{text[start:cut]}{after}", len(before) + cut - start))
            start = cut
        sure = safe_cut(text, min(len(text) - 1, start + room // 2)) - start  # the last character may be combined
        return [*parts, Part(f"{before}{text[start:]}{after}", len(before) + sure)]
