"""Separates thoughts from the text of one answer, for servers that do and that do not do it themselves."""

from bot.engine.text.reasoning import ReasoningSplitter, Split


class Thoughts:
    """Separates thoughts from text, where a server does not.

    begun: the model's earlier thoughts began in the prompt; so this answer may begin within thoughts.
    """

    def __init__(self, begun: bool) -> None:
        self._splitter = ReasoningSplitter("<think>" if begun else None, keeps_space=True)
        self._guessed = begun
        self._unclosed: list[str] = []
        self.opened_in_prompt = False
        self._separated = False  # the server does it

    def split(self, text: str, reasoning: str) -> Split:
        """Split the next piece; `reasoning` is what the server calls so."""
        if reasoning and not self._separated:
            self._separated = True
            self._guessed = False
        if self._separated:
            return Split(text, reasoning)
        return self._noted(self._splitter.push(text))

    def end(self, text: str, *, whole: bool) -> Split:
        """Split the last piece. whole: the model ended by itself; thoughts that were only guessed are its text then."""
        if self._separated:
            return Split(text)
        first, last = self._noted(self._splitter.push(text)), self._noted(self._splitter.flush())
        split = Split(first.text + last.text, first.reasoning + last.reasoning, first.retracts or last.retracts)
        if whole and self._guessed:
            return Split("".join(self._unclosed) + split.text)
        return split

    def _noted(self, split: Split) -> Split:
        self.opened_in_prompt = self.opened_in_prompt or split.retracts
        if self._guessed:
            self._unclosed.append(split.reasoning)
            self._guessed = self._splitter.thinking
        return split
