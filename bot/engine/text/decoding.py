"""Decodes the generated token ids of one answer to text incrementally.

Text is returned once it is final. All pieces together are the text of all ids, however the ids are split into calls,
except that: the text ends before the first stop string, no part of which is returned; thoughts are kept apart; white
space at the beginning is dropped; special tokens and incomplete characters are not returned. Each id is decoded a
bounded number of times, however long the answer.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from bot.engine.text.reasoning import ReasoningSplitter, Split, Tags

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 8
"""Most ids that may wait for a complete character. UTF-8 takes at most four bytes, and a byte at most one id."""
LONGEST_TAG = 64
"""Most characters of a tag that a repository names."""


class TextDecoder:
    """Decoder of one answer. `stopped` becomes true when a stop string was found.

    stop: strings that end the answer; in thoughts they do not count. continues: ids of the prompt, if the answer
    continues a text (then white space at its beginning is kept). opening: what the template wrote after the last
    question.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: Sequence[str] = (),
        continues: Sequence[int] = (),
        opening: str = "",
    ) -> None:
        self.stopped = False
        self._splitter = ReasoningSplitter(opening, goes_on=bool(continues), own=own_tags(tokenizer), keeps_space=True)
        self._tags = {
            number: token.content
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.content.lower() in self._splitter.tags
        }
        self._reasoning: list[str] = []
        self._tokenizer = tokenizer
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._stop = [text for text in stop if text]
        self._held = ""
        self._begun = bool(continues)
        # The window: returned ids, kept because an id's text can depend on the one before, then the pending ids.
        self._window = self._context(continues)
        self._out = len(self._window)
        self._before = self._decode(self._window)

    @property
    def thinking(self) -> bool:
        """Whether the ids belong to thoughts now."""
        return self._splitter.thinking

    def push(self, ids: Sequence[int]) -> str:
        """Add ids and return the text that became final; '' after a stop string."""
        shown = ""
        for number in ids:
            if number in self._tags:
                shown += self._show(self._splitter.push(self._rest()))
                shown += self._show(self._splitter.marker(self._tags[number]))
            elif number not in self._special:
                self._window.append(number)
        return shown + self._show(self._splitter.push(self._complete()))

    def flush(self) -> str:
        """Return the rest of the text at the end of the answer. Drops bytes that never became a character."""
        rest, end = self._splitter.push(self._rest()), self._splitter.flush()
        return self._show(Split(rest.text + end.text, rest.reasoning + end.reasoning), ended=True)

    def take_reasoning(self) -> str:
        """Return the thoughts since the last call."""
        reasoning = "".join(self._reasoning)
        self._reasoning.clear()
        return reasoning

    def _rest(self) -> str:
        """Return the text of all pending ids, without bytes that are no character yet; empties the window."""
        rest = self._decode(self._window)[len(self._before) :].rstrip(REPLACEMENT)
        del self._window[self._out :]
        return rest

    def _complete(self) -> str:
        """Return the text up to the last id that completes a character; these ids become the context."""
        length = len(self._window)
        oldest = max(self._out, length - LONGEST_CHARACTER)
        for end in range(length, oldest, -1):
            text = self._decode(self._window[:end])
            if text.endswith(REPLACEMENT):
                continue
            new = text[len(self._before) :]
            del self._window[: self._out]
            self._out = end - self._out
            self._before = self._decode(self._window[: self._out])
            return new
        # Ids still incomplete after so many others are no part of a character, and would corrupt the next ones.
        del self._window[self._out : oldest]
        return ""

    def _show(self, split: Split, ended: bool = False) -> str:
        """Return held-back text and the new text, up to a stop string or a possible beginning of one."""
        if self.stopped:
            return ""
        self._reasoning.append(split.reasoning)
        text = self._held + split.text
        # The stop string that completes first wins, as if the characters had arrived one by one.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = text[: min(found)[1]], ""
        else:
            keep = 0 if ended else max((_overlap(text, stop) for stop in self._stop), default=0)
            shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        shown = shown if self._begun else shown.lstrip()
        self._begun = self._begun or bool(shown)
        return shown

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """Return the shortest end of `prompt` that decodes to whole characters."""
        tail = [number for number in prompt[-LONGEST_CHARACTER:] if number not in self._special]
        for start in range(len(tail) - 1, -1, -1):
            text = self._decode(tail[start:])
            if text and REPLACEMENT not in text:
                return tail[start:]
        return []


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def own_tags(tokenizer: PreTrainedTokenizerBase) -> Tags | None:
    """Return the tags around thoughts that a repository's response template names; None if it names none.

    Its regular expressions are not used: they would run without a limit of time on the engine's main thread.
    """
    template: object = getattr(tokenizer, "response_template", None)
    fields = template.get("fields") if isinstance(template, dict) else None
    for name in ("reasoning_content", "thinking"):
        field = fields.get(name) if isinstance(fields, dict) else None
        if not isinstance(field, dict):
            continue
        tags = [tag.strip() for tag in (field.get("open"), field.get("close")) if isinstance(tag, str)]
        if len(tags) == 2 and all(3 <= len(tag) <= LONGEST_TAG for tag in tags):
            return Tags(*tags)
    return None
