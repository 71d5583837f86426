"""Chat templates: what stands around the contents of a conversation, and content that would forge it.

Renders a tokenizer's template, or one of our own, with placeholders for the contents, and gives the gaps: the texts
before, between and after them. Contents never pass through the template, so nothing in them can steer it. What it can
do (a system role or not) is found out once. Templates are rendered in a child process with limits
(`template_renderer`), and their gaps are remembered by the shape of the conversation.

What need not be found out: the conversations that are rendered begin with a user turn and alternate (the caller joins
neighbours of one role, which every template takes and which reads the same), and contents are stripped before they
come.

Role markers that are plain text and no control tokens are defused in content, with one visible space. A bracketed one
(`<|user|>`, `[INST]`, `<<SYS>>`, in a model whose tokenizer has no such token) wherever it stands: `< |user|>`. A label
(`Instruct:`, `### Response:`) only at the start of a line, whatever its case: `Instruct :`.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain

from transformers import PreTrainedTokenizerBase

from bot.engine.text.encoding import Literals, Pause, no_pause
from bot.engine.text.template_renderer import SHARED, TemplateExceeded, TemplateRefused
from bot.types.errors import ModelError, RequestFailed

# Phi-2's repository has no template. Of the two forms that it was trained on, questions and answers (repeated) are
# used, not its dialogue of Alice and Bob: their names would mix with those of the people in a channel.
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
"""Characters of a template; the longest known, which describe tools as well, have 20,000."""
MOST_MARKERS = 256
"""Role markers of plain text that a template may have; those known have ten."""
LINES = 1024
"""Lines that are looked at in one go."""
LONGEST_HEADER = 1000
"""Characters of what may open an answer."""
REMEMBERED_SHAPES = 32
"""Shapes of conversations of which the gaps are kept."""

_PLACEHOLDER = re.compile("\ue000([0-9]{1,6})\ue001")
_BRACKETED = re.compile(r"<{1,2}[^<>\s]{1,40}>{1,2}|\[/?[A-Z][A-Z_ ]{0,30}\]")
_LABEL = re.compile(r"[ \t]{0,8}(#{0,8}[ \t]{0,8}\w[\w \t]{0,30}?)[ \t]{0,8}:")
_ENDS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"  # of lines
_END = re.compile(f"[{_ENDS}]")
_SPACE = rf"[^\S{_ENDS}]*+"  # never over the end of a line; possessive, so that a line of spaces is read once

Shape = tuple[bool, int, bool]
"""What the gaps depend on: a system prompt or none, the number of turns, whether an answer is continued."""


class ChatTemplate:
    """One model's template. `system_role`: it takes a system prompt, and puts it before the first user turn.

    template: '' for the tokenizer's own, or the name of one of ours. name: the model's, for sentences. Raises
    ModelError if there is no template, or if it cannot render a plain conversation within the limits.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        control: Literals,
        name: str = "this model",
        pause: Pause = no_pause,
    ) -> None:
        self._name = name
        self._control = control
        self._variables = {
            **tokenizer.special_tokens_map,
            "tools": None,
            "documents": None,
            "enable_thinking": False,  # known to templates of models that think first: in a chat, people wait for it
        }
        self._template = TEMPLATES[template] if template else self._own(tokenizer)
        self._remembered = OrderedDict[Shape, list[str] | str]()
        shapes = [self._probed((False, 3, False)), self._probed((False, 1, True))]
        try:
            shapes.append(self._rendered((True, 3, False)))
            self.system_role = True
        except TemplateExceeded as error:
            raise ModelError(self._too_costly(error)) from error
        except TemplateRefused:
            # refused, left out, or moved (to the last turn, say, where no cache could keep it)
            self.system_role = False
        self.heads = [shape[0] for shape in shapes]
        self.between = [gap for shape in shapes for gap in shape[1:]]
        heads, between = ([control.replace(gap, _line_feed) for gap in gaps] for gaps in (self.heads, self.between))
        markers = _PlainMarkers("\n".join(heads), between, pause)
        if markers.count > MOST_MARKERS:
            raise ModelError(
                f"The chat template of {name} has {markers.count} role markers, and at most {MOST_MARKERS} are taken; "
                f"{self._instead}"
            )
        self.defuse = markers.defuse

    def gaps(self, system: bool, turns: int, continuing: bool) -> list[str]:
        """The texts around the contents of `turns` (odd) turns, user and assistant in alternation.

        system: a system prompt comes before them. continuing: the beginning of the answer comes last. There is one gap
        before each content and, unless continuing, one more, which asks for the answer. Raises RequestFailed if the
        template cannot render that.
        """
        shape = (system, turns, continuing)
        known = self._remembered.get(shape)
        if known is None:
            try:
                return self._rendered(shape)
            except TemplateExceeded as error:
                known = self._remember(shape, f"The chat template of {self._name} {error}")
            except TemplateRefused as error:
                known = self._remember(shape, f"The chat template of {self._name} fails: {error}")
        self._remembered.move_to_end(shape)
        if isinstance(known, str):
            raise RequestFailed(f"{known}, for a conversation of {turns} turns; use /reset, or choose another model.")
        return known

    @property
    def _instead(self) -> str:
        return f"choose another model, or name one of our templates in the catalog ({', '.join(TEMPLATES)})."

    def _own(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The tokenizer's template. Raises ModelError if it has none, or one that is no text of a usual length."""
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
            raise ModelError(f"The chat template of {self._name} is not one text; {self._instead}")
        if len(template) > LONGEST_TEMPLATE:
            raise ModelError(
                f"The chat template of {self._name} has {len(template):,} characters, and at most "
                f"{LONGEST_TEMPLATE:,} are taken; {self._instead}"
            )
        return template

    def _probed(self, shape: Shape) -> list[str]:
        try:
            return self._rendered(shape)
        except TemplateExceeded as error:
            raise ModelError(self._too_costly(error)) from error
        except TemplateRefused as error:
            raise ModelError(
                f"The chat template of {self._name} cannot render a conversation: {error}; {self._instead}"
            ) from error

    def _too_costly(self, error: TemplateExceeded) -> str:
        return f"The chat template of {self._name} {error}, so it is not used; {self._instead}"

    def _rendered(self, shape: Shape) -> list[str]:
        """The gaps of a shape. Raises TemplateRefused, also if it does not show every content once and in order."""
        system, turns, continuing = shape
        roles = ["system"] * system + [("user", "assistant")[number % 2] for number in range(turns + continuing)]
        messages = [{"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)]
        text, timed = SHARED.render(
            self._template, messages, {**self._variables, "add_generation_prompt": not continuing}
        )
        gaps = _PLACEHOLDER.split(text)
        if gaps[1::2] != [str(number) for number in range(len(roles))]:
            raise TemplateRefused("it loses, repeats or moves what is said")
        gaps = gaps[::2]
        gaps = [gaps[0], *(_single(gap, self._control) for gap in gaps[1:])]
        gaps = gaps[:-1] if continuing else gaps
        if not timed:  # one that shows the date is rendered anew each time
            self._remember(shape, gaps)
        return gaps

    def _remember(self, shape: Shape, outcome: "list[str] | str") -> "list[str] | str":
        self._remembered[shape] = outcome
        if len(self._remembered) > REMEMBERED_SHAPES:
            self._remembered.popitem(last=False)
        return outcome


def _single(gap: str, control: Literals) -> str:
    """`gap` with the header for an answer at its end once, if it is there twice.

    It is written twice by the user's turn and again by the assistant's, or by both the user's turn and the generation
    prompt; one is meant. A header begins with a control token.
    """
    tail = gap[-2 * LONGEST_HEADER :]
    for begin, end in control.all(tail):
        half, odd = divmod(len(tail) - begin, 2)
        if not odd and half >= end - begin and tail.endswith(tail[begin : begin + half]):
            return gap[: len(gap) - half]
    return gap


def _line_feed(_: str) -> str:
    return "\n"


class _PlainMarkers:
    """The plain-text markers of one template. `head` comes before the first content, `between` around the others."""

    def __init__(self, head: str, between: Iterable[str], pause: Pause) -> None:
        between, self._pause = list(between), pause
        brackets = {found for text in (head, *between) for found in _BRACKETED.findall(text)}
        # The head may hold prose of the template's own, where a colon at the start of a line means nothing.
        lines = [line for text in between for line in text.splitlines()]
        labels = {match.group(1) for line in lines if (match := _LABEL.match(line))}
        self.count = len(brackets) + len(labels)
        either = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
        self._brackets = Literals(brackets, pause)
        self._label = re.compile(f"{_SPACE}(?:{either}){_SPACE}:", re.I) if either else None

    def defuse(self, text: str) -> str:
        """`text` without anything that reads as one of the markers."""
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
