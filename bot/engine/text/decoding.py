"""Token ids to text, as they come.

Comes in: the newly generated ids of one answer, in any portions. Goes out: text that will not change any more.
Promises: the portions together are the text of all ids, whatever the portions were, except that it ends before the
first stop string (never shown, not even a part of it), that white space before the first word is left out, and so is a
block of `<think>...</think>` that the answer begins with; no special token is shown, and no replacement character for
a character whose bytes are still coming. An id is decoded a bounded number of times, however long the answer.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 8
"""Ids that may wait for their character to be complete: UTF-8 takes four bytes at most, and none takes two ids."""

THINK, THOUGHT = "<think>", "</think>"


class TextDecoder:
    """The text of one answer. `stopped` becomes true when a stop string was found.

    stop: strings that end the answer. continues: ids of the prompt, if the answer goes on in the middle of a text (then
    white space at its beginning is kept).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), continues: Sequence[int] = ()
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._stop = [text for text in stop if text]
        self._held = ""
        self._opening = None if continues else _Opening()
        # The window: ids whose text is out, kept since the text of an id can depend on the one before; then the rest.
        self._window = self._context(continues)
        self._out = len(self._window)
        self._before = self._decode(self._window)

    def push(self, ids: Sequence[int]) -> str:
        """Take new ids; the text that became certain, '' after a stop string."""
        if self.stopped:
            return ""
        self._window += [number for number in ids if number not in self._special]
        return self._show(self._complete(), ended=False)

    def flush(self) -> str:
        """The rest of the text, once no more ids will come. Bytes that never became a character are dropped."""
        if self.stopped:
            return ""
        rest = self._decode(self._window)[len(self._before) :].rstrip(REPLACEMENT)
        del self._window[self._out :]
        return self._show(rest, ended=True)

    def _complete(self) -> str:
        """The text up to the last id that completes a character; these ids are what the window keeps as out."""
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
        # An id that has not become text among so many is no part of a character, and would spoil those that follow.
        del self._window[self._out : oldest]
        return ""

    def _show(self, text: str, ended: bool) -> str:
        """`text` after what was held back, up to a stop string or to what may be the beginning of one."""
        text = self._held + text
        # The one that is complete first, as if the characters had come one by one.
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
        """As many of the last ids of `prompt` as it takes to begin with a whole character."""
        tail = [number for number in prompt[-LONGEST_CHARACTER:] if number not in self._special]
        for start in range(len(tail) - 1, -1, -1):
            text = self._decode(tail[start:])
            if text and REPLACEMENT not in text:
                return tail[start:]
        return []


class _Opening:
    """Drops what an answer should not open with: white space, and a model's thoughts."""

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
        """What was held back, when no more comes or none is needed."""
        if self._open or self._thinking:
            return ""
        self._open = bool(self._text)
        text, self._text = self._text, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
