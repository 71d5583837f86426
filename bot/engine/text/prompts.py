"""Builds a model's input token ids from a system prompt, turns and an optional beginning of the answer.

Prompt and answer together fit the context window. The system prompt and the last question are always included. The
beginning stays the same from turn to turn unless the history is cut (see first_kept). Content cannot become
a control token or a role marker. The work is bounded by the context window: text that cannot fit by its length is not
tokenised, and counting stops once a text exceeds the budget.

Adjacent turns of one role are merged, because some templates reject them. If the template has no system role, the
system prompt opens the first user turn. Author names precede user texts once two people take part, so the beginning of
the prompt changes once, when the second one joins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from bot.engine.text.encoding import Piece, SafeEncoder
from bot.engine.text.literal_matcher import PART, Pause, no_pause
from bot.engine.text.templates import ChatTemplate
from bot.engine.text.turns import BETWEEN, first_kept, fit_pictures, merged_pictures, merged_texts, named, next_user
from bot.types.errors import TOO_LONG, RequestFailed
from bot.types.messages import Picture, PictureTokens, Prompt, Role, Turn

PICTURE_OVERHEAD = 8
"""Tokens counted for what the template and the processor write around a picture."""


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """Token ids of a prompt. `window`: context window in tokens. `dropped_turns`: number of oldest turns left out.

    `opening`: what the template wrote before the answer, or before its beginning if it is continued. `pictures`: those
    that the ids show, in their order. `dropped_pictures`: number of those left out.
    """

    ids: list[int]
    dropped_turns: int
    window: int
    opening: str = ""
    pictures: tuple[Picture, ...] = ()
    dropped_pictures: int = 0


class PictureEncoder(Protocol):
    """Tokens of pictures. `token`: what the chat template writes for each."""

    token: str
    token_id: int

    def tokens(self, picture: Picture) -> PictureTokens:
        """What stands for a picture in a prompt instead of `token`."""
        ...


class PromptBuilder:
    """Builds prompts for one loaded model. Not thread-safe.

    template: '' for the tokenizer's own chat template, or a name in bot.engine.text.templates.TEMPLATES.
    context_window: tokens of prompt and answer together. name: the model's, for error messages. pause: called every few
    milliseconds of work. pictures: of a model that sees. Raises ModelError if the model has no usable template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        context_window: int,
        name: str = "this model",
        pause: Pause = no_pause,
        pictures: PictureEncoder | None = None,
    ) -> None:
        self._encoder = SafeEncoder(tokenizer, name, pause)
        self._template = ChatTemplate(tokenizer, template, self._encoder.control, name, pause)
        self._window = context_window
        self.capabilities = self._template.capabilities
        """What the chat template says about the model."""
        end = self._template.turn_end
        token = self._encoder.control_id(end)
        self.end_ids = frozenset(() if token is None else (token,))
        """Token ids that end an answer, besides the tokenizer's and the model's own."""
        self.end_texts = (end,) if end and token is None else ()
        """Stop strings that end an answer."""
        self._head = max(self._gap_cost(gap) for gap in self._template.heads)
        self._around = 1 + max(self._gap_cost(gap) for gap in self._template.between)
        self._pictures = pictures if pictures is not None and self._template.shows(pictures.token) else None
        self.sees = self._pictures is not None
        """Whether prompts show pictures: there is `pictures`, and the template has a place for them."""

    def build(self, prompt: Prompt, max_tokens: int, window: int = 0, effort: str = "") -> BuiltPrompt:
        """Return the ids of `prompt`, at most the context window minus `max_tokens`.

        window: another context window for this prompt; 0: the builder's. effort: how much the model thinks, one of its
        template's; others are ignored.

        Raises RequestFailed if there is no question, or if the system prompt, the question and `prompt.prefix` alone do
        not fit.
        """
        turns = [turn for turn in prompt.turns if turn.text.strip()]
        if self._pictures is None:
            turns = [replace(turn, pictures=()) for turn in turns]
        user = [turn.role is not Role.ASSISTANT for turn in turns]
        if not turns or not user[-1]:
            raise RequestFailed("There is no question to answer: the last message is empty. Write one with some text.")
        window = window or self._window
        budget = window - max_tokens
        needed = [prompt.system, named(turns[-1]), prompt.prefix]
        self._refuse_above(budget, max_tokens, [self._encoder.min_tokens(text) for text in needed])
        needed_costs = [self._count(text, budget) for text in needed]
        # Shorter texts are counted in full, so that the error message gives the exact figure.
        long = [cost for text, cost in zip(needed, needed_costs, strict=True) if len(text) > PART]
        self._refuse_above(budget, max_tokens, long)
        opening = next_user(user, 0)  # earlier turns do not count as dropped: templates begin with a user turn
        first = self._first_in_reach(turns, user, budget)
        turns, user = turns[first:], user[first:]
        costs = [self._around + self._count(named(turn), budget) for turn in turns]
        fixed = self._head + self._around + needed_costs[0]
        if prompt.prefix:
            costs.append(needed_costs[2])
            user.append(False)
        shown = self._picture_tokens(turns)
        asked = turns
        turns, with_pictures, _ = fit_pictures(
            turns, costs[: len(turns)], fixed, budget, lambda one: len(shown[one].ids) + PICTURE_OVERHEAD
        )
        if asked[-1].pictures and not turns[-1].pictures:
            raise RequestFailed("The picture does not fit the model's context window; send a smaller one.")
        costs[: len(turns)] = with_pictures
        start = first_kept(costs, user, fixed, budget)
        while start < len(turns):
            ids, gap = self._encode(
                prompt, turns[start:], effort if effort in (self.capabilities.efforts or ()) else "", shown
            )
            if len(ids) <= budget:
                pictures = tuple(picture for turn in turns[start:] for picture in turn.pictures)
                dropped = sum(len(turn.pictures) for turn in prompt.turns) - len(pictures)
                return BuiltPrompt(ids, first + start - opening, window, gap, pictures, dropped)
            start = next_user(user, start + 1)
        raise _too_long(f"{len(ids):,}", budget, max_tokens)

    def _refuse_above(self, budget: int, max_tokens: int, least: Sequence[int]) -> None:
        """Raise RequestFailed if one of these lower bounds exceeds the budget."""
        if max(least, default=0) > budget:
            raise _too_long(f"at least {sum(least):,}", budget, max_tokens)

    def _first_in_reach(self, turns: Sequence[Turn], user: Sequence[bool], budget: int) -> int:
        """Return the index of the first turn to consider; earlier ones cannot fit, by their length.

        It advances in steps of the most characters that can fit, so that the cut of `first_kept` mostly stays in place.
        """
        reach = max(1, self._encoder.max_chars(budget))
        ends = list(accumulate(len(turn.text) for turn in turns))
        left_out = (ends[-1] - reach) // reach * reach
        first = 0
        for index, end in enumerate(ends):
            if end > left_out:
                break
            first = index + 1 if user[index + 1] else first
        return first

    def _count(self, text: str, most: int) -> int:
        """Count the tokens of `text` as content, up to `most`. Does not tokenise a text that is obviously too long."""
        least = self._encoder.min_tokens(text)
        return least if least > most else self._encoder.count(self._clean(text), most)

    def _picture_tokens(self, turns: Sequence[Turn]) -> dict[Picture, PictureTokens]:
        if self._pictures is None:
            return {}
        return {picture: self._pictures.tokens(picture) for turn in turns for picture in turn.pictures}

    def _encode(
        self, prompt: Prompt, turns: Sequence[Turn], effort: str, shown: Mapping[Picture, PictureTokens]
    ) -> tuple[list[int], str]:
        """Return the ids, and the text of the template before the answer. shown: tokens of the turns' pictures."""
        system = self._clean(prompt.system)
        contents = self._contents(turns)
        alternating = len(contents)
        if system and self._template.system_role:
            contents.insert(0, system)
        elif system:
            contents[0] = system + BETWEEN + contents[0]
        if prompt.prefix:
            contents.append(self._template.break_role_markers(prompt.prefix))
        pictures = merged_pictures(turns)
        counts = tuple(map(len, pictures)) if any(pictures) else ()
        continuing = bool(prompt.prefix)
        gaps = self._template.gaps(len(contents) > alternating + continuing, alternating, continuing, effort, counts)
        tokens = [shown[picture] for each in pictures for picture in each]
        pieces = []
        for number, gap in enumerate(self._with_texts(gaps, tokens)):
            pieces.append(Piece(gap, structure=True))
            pieces += [Piece(content, structure=False) for content in contents[number : number + 1]]
        return self._with_pictures(self._encoder.encode(pieces), tokens), gaps[-1]

    def _with_texts(self, gaps: Sequence[str], pictures: Sequence[PictureTokens]) -> Sequence[str]:
        """Put the texts of pictures around the tokens that the template wrote for them."""
        if self._pictures is None or not pictures:
            return gaps
        token, left, made = self._pictures.token, iter(pictures), list[str]()
        if sum(gap.count(token) for gap in gaps) != len(pictures):
            raise RequestFailed("The chat template of this model drops pictures; use /reset, or choose another model.")
        for gap in gaps:
            first, *rest = gap.split(token)
            made.append(first)
            for part in rest:
                picture = next(left)
                made[-1] += f"{picture.before}{token}{picture.after}{part}"
        return made

    def _with_pictures(self, ids: list[int], pictures: Sequence[PictureTokens]) -> list[int]:
        """Put the ids of pictures in the place of the tokens that the template wrote for them."""
        if self._pictures is None or not pictures:
            return ids
        left, made = iter(pictures), list[int]()
        for each in ids:
            made += next(left).ids if each == self._pictures.token_id else (each,)
        return made

    def _contents(self, turns: Sequence[Turn]) -> list[str]:
        """Return the texts of the turns, with adjacent turns of one role merged."""
        return [self._clean(text) for text in merged_texts(turns)]

    def _clean(self, text: str) -> str:
        return self._template.break_role_markers(text.strip())

    def _gap_cost(self, gap: str) -> int:
        return len(self._encoder.encode([Piece(gap, structure=True)]))


def _too_long(tokens: str, budget: int, max_tokens: int) -> RequestFailed:
    return RequestFailed(
        f"{TOO_LONG} {tokens} tokens, and there is room for {max(budget, 0):,} "
        f"(context window {budget + max_tokens:,}, less {max_tokens:,} for the answer): "
        "shorten them or lower max_tokens."
    )
