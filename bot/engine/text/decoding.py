"""Decodes the generated token ids of one answer to text incrementally.

Text is returned once it is final. All pieces together are the text of all ids, however the ids are split into calls,
except that: the text ends before the first stop string, no part of which is returned; white space and a
`<think>...</think>` block at the beginning are dropped; special tokens and incomplete characters are not returned. Each
id is decoded a bounded number of times, however long the answer.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 8
"""Most ids that may wait for a complete character. UTF-8 takes at most four bytes, and a byte at most one id."""

THINK, THOUGHT = "<think>", "</think>"


class TextDecoder:
    """Decoder of one answer. `stopped` becomes true when a stop string was found.

    stop: strings that end the answer. continues: ids of the prompt, if the answer continues a text (then white space at
    its beginning is kept).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), continues: Sequence[int] = ()
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._stop = [text for text in stop if text]
        self._held = ""
        self._opening = None if continues else _OpeningFilter()
        # The window: returned ids, kept because an id's text can depend on the one before, then the pending ids.
        self._window = self._context(continues)
        self._out = len(self._window)
        self._before = self._decode(self._window)

    def push(self, ids: Sequence[int]) -> str:
        """Add ids and return the text that became final; '' after a stop string."""
        if self.stopped:
            return ""
        self._window += [number for number in ids if number not in self._special]
        return self._show(self._complete(), ended=False)

    def flush(self) -> str:
        """Return the rest of the text at the end of the answer. Drops bytes that never became a character."""
        if self.stopped:
            return ""
        rest = self._decode(self._window)[len(self._before) :].rstrip(REPLACEMENT)
        del self._window[self._out :]
        return self._show(rest, ended=True)

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

    def _show(self, text: str, ended: bool) -> str:
        """Return held-back text and `text`, up to a stop string or a possible beginning of one."""
        text = self._held + text
        # The stop string that completes first wins, as if the characters had arrived one by one.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = text[: min(found)[1]], ""
        else:
            keep = 0 if ended else max((_overlap(text, stop) for stop in self._stop), default=0)
            shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        if self._opening is None:
            return shown
        return self._opening.push(shown) + (self._opening.flush() if ended or self.stopped else "")

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


class _OpeningFilter:
    """Drops white space and a `<think>` block at the beginning of an answer."""

    def __init__(self) -> None:
        self._text = ""
        self._thinking = False
        self._open = False

    def push(self, text: str) -> str:
        if self._open:
            return text
        self._text += text
        if self._thinking:
            thought, end, rest = self._text.partition(THOUGHT)
            if not end:
                self._text = thought[1 - len(THOUGHT) :]
                return ""
            self._thinking = False
            self._text = rest
        self._text = self._text.lstrip()
        if self._text.startswith(THINK):
            self._thinking = True
            self._text = self._text[len(THINK) :]
            return self.push("")
        if THINK.startswith(self._text):  # '' as well
            return ""
        return self.flush()

    def flush(self) -> str:
        """Return the held-back text at the end of the answer, or once it cannot become a `<think>` tag."""
        if self._open or self._thinking:
            return ""
        self._open = bool(self._text)
        text, self._text = self._text, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
