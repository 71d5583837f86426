"""Derives the texts that a chat template puts around contents, and neutralises contents that imitate role markers.

Renders a tokenizer's template, or one of our own, with placeholders for the contents, and returns the gaps: the texts
before, between and after them. Contents never pass through the template, so they cannot influence it. Whether it has a
system role is probed once. Templates are rendered in a child process with limits (see
bot.engine.text.template_renderer), and gaps are cached by the shape of the conversation.

Conversations must begin with a user turn and alternate (the caller merges adjacent turns of one role), and contents
must be stripped.

Role markers that are plain text instead of control tokens are broken in content with one visible space. A bracketed one
(`<|user|>`, `[INST]`, `<<SYS>>`, in a model whose tokenizer has no such token) is broken anywhere: `< |user|>`. A label
(`Instruct:`, `### Response:`) is broken only at the start of a line, in upper or lower case: `Instruct :`.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from transformers import PreTrainedTokenizerBase

from bot.engine.text.literal_matcher import LiteralMatcher, Pause, no_pause
from bot.engine.text.template_renderer import SHARED, TemplateExceeded, TemplateRefused
from bot.engine.text.template_signs import capabilities_of
from bot.types.errors import ModelError, RequestFailed

# Phi-2's repository has no template. Of the two formats that it was trained on, this is repeated questions and answers,
# not the dialogue of Alice and Bob, whose names would mix with those of the people in a channel.
PHI_2 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Instruct: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'Output: ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Output:{% endif %}"
)

TEMPLATES = {"phi-2": PHI_2}
"""Our own templates by name."""

LONGEST_TEMPLATE = 256 * 1024
"""Most characters of a template; the longest known ones, which also describe tools, have 20,000."""
MOST_MARKERS = 256
"""Most plain-text role markers of a template; known ones have ten."""
LINES = 1024
"""Lines checked between two pauses."""
LONGEST_HEADER = 1000
"""Most characters of the header that opens an answer."""
CACHED_SHAPES = 32
"""Number of conversation shapes whose gaps are cached."""

ONE_ROUND: "Shape" = (False, 3, False, ())
"""The shape of a conversation of a question, its answer and another question."""

_PLACEHOLDER = re.compile("\ue000([0-9]{1,6})\ue001")
# A marker of the end of a turn: <|end|> (DeepSeek has full-width bars), [|end|], <end_of_turn>; no tag of HTML.
_TURN_END = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s]{1,40}[|\uff5c]>|\[\|[^\[\]|\s]{1,40}\|\]|<[a-z]{1,20}(?:_[a-z]{1,20}){1,4}>|\[/?INST\]"
)
_KNOWS_EFFORTS = re.compile("thinking|reasoning_effort")
_PRINTED_PART = re.compile(r"""['"]type['"]: ?['"]text['"]""")
_BRACKETED = re.compile(r"<{1,2}[^<>\s]{1,40}>{1,2}|\[/?[A-Z][A-Z_ ]{0,30}\]")
_LABEL = re.compile(r"[ \t]{0,8}(#{0,8}[ \t]{0,8}\w[\w \t]{0,30}?)[ \t]{0,8}:")
_ENDS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"  # line ends
_END = re.compile(f"[{_ENDS}]")
_SPACE = rf"[^\S{_ENDS}]*+"  # within a line; possessive, so that a line of spaces is read once

Shape = tuple[bool, int, bool, tuple[int, ...]]
"""What the gaps depend on: whether there is a system prompt, the number of turns, whether an answer is continued, and
the number of pictures of each turn; () for none."""

EFFORTS: Mapping[str, Mapping[str, object]] = {
    "": {"enable_thinking": False},  # chat users wait for the answer
    "off": {"enable_thinking": False, "thinking": False},
    "on": {"enable_thinking": True, "thinking": True},
    "low": {"enable_thinking": True, "thinking": True, "reasoning_effort": "low"},
    "high": {"enable_thinking": True, "thinking": True},  # with a word of HIGHEST
}
"""Variables of templates that know how much a model thinks, by effort; '' is the default."""

HIGHEST = ("high", "xhigh")
"""What templates call the effort 'high'; Qwen3.8's knows low, medium and xhigh, and fails for any other word."""


class ChatTemplate:
    """One model's chat template. `system_role`: whether it puts a system prompt before the first user turn.

    template: '' for the tokenizer's own, or a name in TEMPLATES. name: the model's, for error messages. Raises
    ModelError if there is no template, or if it cannot render a plain conversation within the limits.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        control: LiteralMatcher,
        name: str = "this model",
        pause: Pause = no_pause,
    ) -> None:
        self._name = name
        self._control = control
        self._variables = {
            **tokenizer.special_tokens_map,
            "tools": None,
            "documents": None,
        }
        self._template = TEMPLATES[template] if template else self._own(tokenizer)
        self._cache = OrderedDict[tuple[Shape, str], list[str] | str]()
        self._highest = HIGHEST[0]
        self._as_parts = False
        self._as_parts = self._takes_only_parts()
        shapes = [self._probed(ONE_ROUND), self._probed((False, 1, True, ()))]
        self.turn_end = self._turn_end(shapes[0])
        try:
            shapes.append(self._rendered((True, 3, False, ())))
            self.system_role = True
        except TemplateExceeded as error:
            raise ModelError(self._exceeded_message(error)) from error
        except TemplateRefused:
            # rejected, omitted, or moved (for example to the last turn, which defeats prefix caching)
            self.system_role = False
        self.heads = [shape[0] for shape in shapes]
        self.between = [gap for shape in shapes for gap in shape[1:]]
        heads, between = ([control.replace(gap, _line_feed) for gap in gaps] for gaps in (self.heads, self.between))
        markers = _TextMarkers("\n".join(heads), between, pause)
        if markers.count > MOST_MARKERS:
            raise ModelError(
                f"The chat template of {name} has {markers.count} role markers; the limit is {MOST_MARKERS}: "
                f"{self._instead}"
            )
        self.break_role_markers = markers.break_role_markers
        signs, efforts = capabilities_of(self._template), self._known_efforts()
        self.capabilities = replace(signs, reasoning=bool(signs.reasoning or efforts), efforts=efforts)

    def gaps(
        self, system: bool, turns: int, continuing: bool, effort: str = "", pictures: tuple[int, ...] = ()
    ) -> list[str]:
        """Return the texts around the contents of `turns` (odd) turns that alternate between user and assistant.

        system: a system prompt comes first. continuing: the beginning of the answer comes last. effort: a name in
        EFFORTS. pictures: number of pictures before the text of each turn; () for none. There is one gap before each
        content and, unless continuing, a last one that opens the answer. Raises RequestFailed if the template cannot
        render this shape.
        """
        shape = (system, turns, continuing, pictures)
        known = self._cache.get((shape, effort))
        if known is None:
            try:
                return self._rendered(shape, effort)
            except TemplateExceeded as error:
                known = self._store(shape, effort, f"The chat template of {self._name} {error}")
            except TemplateRefused as error:
                known = self._store(shape, effort, f"The chat template of {self._name} fails: {error}")
        self._cache.move_to_end((shape, effort))
        if isinstance(known, str):
            raise RequestFailed(f"{known}, for a conversation of {turns} turns; use /reset, or choose another model.")
        return known

    def shows(self, token: str) -> bool:
        """Whether the template writes `token` for a picture of a question; each once, and nowhere else."""
        try:
            gaps = self._rendered((False, 3, False, (1, 0, 2)))
        except (TemplateExceeded, TemplateRefused):
            return False
        return [gap.count(token) for gap in gaps] == [1, 0, 2, 0]

    def takes_neighbours(self) -> bool:
        """Whether the template takes two user turns in a row; `PromptBuilder` merges them in any case."""
        try:
            self._rendered_roles(("user", "user"), (0, 0), "", continuing=False)
        except (TemplateExceeded, TemplateRefused):
            return False
        return True

    def _takes_only_parts(self) -> bool:
        """Return whether contents must be lists of parts, as in templates of models that also take images."""
        for self._as_parts in (False, True):
            try:
                self._rendered(ONE_ROUND)
            except TemplateRefused:
                continue
            except TemplateExceeded:
                break
            return self._as_parts
        return False  # the error about contents that are texts is the one to tell

    def _known_efforts(self) -> tuple[str, ...]:
        """Return the efforts that change a plain conversation."""
        if not _KNOWS_EFFORTS.search(self._template):
            return ()
        for self._highest in HIGHEST:
            try:
                off, on, low, high = (self._rendered(ONE_ROUND, effort) for effort in ("off", "on", "low", "high"))
            except TemplateRefused:
                continue
            except TemplateExceeded:
                break
            return ("off",) * (off != on) + ("low", "high") * (off != on or low != high)
        return ()

    def _turn_end(self, gaps: list[str]) -> str:
        """Return the control token, or a marker that is plain text, which ends an answer; '' if there is none.

        It is what the template writes right after an answer. gaps: those of ONE_ROUND. If the template begins an answer
        of the history with control tokens that it leaves to the model in a new one (harmony's channels), the model
        writes several messages in one answer, and the end of a message does not end the answer.
        """
        _, history, after, opening = gaps
        if history.startswith(opening) and self._control.find(history, len(opening)) is not None:
            return ""
        after = after.lstrip()
        found = self._control.find(after)
        if found is not None and found[0] == 0:
            return after[: found[1]]
        marker = _TURN_END.match(after)
        return marker[0] if marker is not None else ""

    @property
    def _instead(self) -> str:
        return f"choose another model, or name one of our templates in the catalog ({', '.join(TEMPLATES)})."

    def _own(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return the tokenizer's template. Raises ModelError if it has none, or one of the wrong type or size."""
        if not tokenizer.chat_template:
            raise ModelError(
                "This model has no chat template, so it was not made for conversations: choose its instruct or chat "
                f"variant, or name one of our templates in the catalog ({', '.join(TEMPLATES)})."
            )
        try:
            template: object = tokenizer.get_chat_template()
        except Exception:  # several, and none is the default
            template = None
        if not isinstance(template, str):
            raise ModelError(f"The chat template of {self._name} is not a single text; {self._instead}")
        if len(template) > LONGEST_TEMPLATE:
            raise ModelError(
                f"The chat template of {self._name} has {len(template):,} characters; the limit is "
                f"{LONGEST_TEMPLATE:,}: {self._instead}"
            )
        return template

    def _probed(self, shape: Shape) -> list[str]:
        try:
            return self._rendered(shape)
        except TemplateExceeded as error:
            raise ModelError(self._exceeded_message(error)) from error
        except TemplateRefused as error:
            raise ModelError(
                f"The chat template of {self._name} cannot render a conversation: {error}; {self._instead}"
            ) from error

    def _exceeded_message(self, error: TemplateExceeded) -> str:
        return f"The chat template of {self._name} {error}, so it is not used; {self._instead}"

    def _rendered(self, shape: Shape, effort: str = "") -> list[str]:
        """Return the gaps of a shape.

        Raises TemplateExceeded, or TemplateRefused, also if a content is missing, repeated or out of order.
        """
        system, turns, continuing, pictures = shape
        roles = ["system"] * system + [("user", "assistant")[number % 2] for number in range(turns + continuing)]
        shown = [*([0] * system), *pictures, *([0] * (len(roles) + 1))]
        gaps, timed = self._rendered_roles(roles, shown, effort, continuing=continuing)
        # Before the text of a turn with pictures, a gap repeats their token.
        later = zip(gaps[1:], shown[1:], strict=False)
        gaps = [gaps[0], *(gap if number else _without_repeated_header(gap, self._control) for gap, number in later)]
        gaps = gaps[:-1] if continuing else gaps
        if not timed:  # a template that shows the date is not cached
            self._store(shape, effort, gaps)
        return gaps

    def _rendered_roles(
        self, roles: Sequence[str], shown: Sequence[int], effort: str, *, continuing: bool
    ) -> tuple[list[str], bool]:
        """Return the texts around contents of these roles, and whether they depend on the time. Raises as _rendered.

        shown: the number of pictures of each content, and zeros.
        """
        contents = [f"\ue000{number}\ue001" for number in range(len(roles))]
        messages = [
            {"role": role, "content": _content(content, number, as_parts=self._as_parts)}
            for role, content, number in zip(roles, contents, shown, strict=False)
        ]
        graded = {"reasoning_effort": self._highest} if effort == "high" else {}
        text, timed = SHARED.render(
            self._template,
            messages,
            {**self._variables, **EFFORTS[effort], **graded, "add_generation_prompt": not continuing},
        )
        if (self._as_parts or any(shown)) and _PRINTED_PART.search(text):
            raise TemplateRefused("it writes the list of parts, not their text")
        gaps = _PLACEHOLDER.split(text)
        if gaps[1::2] != [str(number) for number in range(len(roles))]:
            raise TemplateRefused("it drops, repeats or reorders messages")
        return gaps[::2], timed

    def _store(self, shape: Shape, effort: str, outcome: "list[str] | str") -> "list[str] | str":
        self._cache[shape, effort] = outcome
        if len(self._cache) > CACHED_SHAPES:
            self._cache.popitem(last=False)
        return outcome


def _content(text: str, pictures: int, *, as_parts: bool) -> str | list[dict[str, str]]:
    """The content of a message, with so many pictures before its text."""
    if not pictures and not as_parts:
        return text
    return [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]


def _without_repeated_header(gap: str, control: LiteralMatcher) -> str:
    """Return `gap` without a duplicated answer header at its end.

    Some templates write the header twice: in the user turn and again in the assistant turn or the generation prompt. A
    header begins with a control token.
    """
    tail = gap[-2 * LONGEST_HEADER :]
    for begin, end in control.all(tail):
        half, odd = divmod(len(tail) - begin, 2)
        if not odd and half >= end - begin and tail.endswith(tail[begin : begin + half]):
            return gap[: len(gap) - half]
    return gap


def _line_feed(_: str) -> str:
    return "\n"


class _TextMarkers:
    """Plain-text role markers of a template. `head` precedes the first content, `between` surrounds the others."""

    def __init__(self, head: str, between: Iterable[str], pause: Pause) -> None:
        between, self._pause = list(between), pause
        brackets = {found for text in (head, *between) for found in _BRACKETED.findall(text)}
        # Takes no labels from the head, which may hold the template's own prose with colons.
        lines = [line for text in between for line in text.splitlines()]
        labels = {match.group(1) for line in lines if (match := _LABEL.match(line))}
        self.count = len(brackets) + len(labels)
        either = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
        self._brackets = LiteralMatcher(brackets, pause)
        self._label = re.compile(f"{_SPACE}(?:{either}){_SPACE}:", re.I) if either else None

    def break_role_markers(self, text: str) -> str:
        """Return `text` with every marker broken by a space."""
        text = self._brackets.replace(text, lambda found: f"{found[0]} {found[1:]}")
        if self._label is None:
            return text
        pieces, at = [], 0
        for number, start in enumerate(chain((0,), (end.end() for end in _END.finditer(text)))):
            if number % LINES == 0:
                self._pause()
            if found := self._label.match(text, start):
                pieces += [text[at : found.end() - 1], " :"]
                at = found.end()
        return "".join([*pieces, text[at:]])
