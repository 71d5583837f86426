"""Chat templates: what stands around the contents of a conversation, and content that would forge it.

Comes in: a tokenizer, and the name of one of our own templates for a model without one. Goes out: the gaps, which are
the texts before, between and after the contents. Promises: contents never pass through the template, so nothing in
them can steer it; what it can do (a system role or not) is found out once, here, by rendering placeholders.

What need not be found out: the conversations that are rendered begin with a user turn and alternate (the caller joins
neighbours of one role, which every template takes and which reads the same), and contents are stripped before they
come.

Role markers that are plain text and no control tokens are defused in content, with one visible space. A bracketed one
(`<|user|>`, `[INST]`, `<<SYS>>`, in a model whose tokenizer has no such token) wherever it stands: `< |user|>`. A label
(`Instruct:`, `### Response:`) only at the start of a line, whatever its case: `Instruct :`.
"""

import re
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from bot.errors import ModelError

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

_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")
_BRACKETED = re.compile(r"<{1,2}[^<>\s]{1,40}>{1,2}|\[/?[A-Z][A-Z_ ]{0,30}\]")
_LABEL = re.compile(r"[ \t]*(#*[ \t]*\w[\w \t]{0,30}?)[ \t]*:")
_ENDS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"  # of lines
_SPACE = rf"[^\S{_ENDS}]*"  # never over the end of a line, so that a text of empty lines costs no quadratic time


class ChatTemplate:
    """One model's template. `system_role`: it takes a system prompt, and puts it before the first user turn.

    Raises ModelError if there is no template, or if it cannot render a plain conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, control: re.Pattern[str]) -> None:
        if not name and not tokenizer.chat_template:
            raise ModelError(
                "This model has no chat template, so it was not made for conversations: choose its instruct or chat "
                f"variant, or name one of our templates in the catalog ({', '.join(TEMPLATES)})."
            )
        self._tokenizer = tokenizer
        self._template = TEMPLATES[name] if name else None
        # A header for the answer that is written twice: by the user's turn and again by the assistant's, or by both the
        # user's turn and the generation prompt. One is meant.
        self._doubled = re.compile(f"((?:{control.pattern}).*?)\\1\\Z", re.DOTALL)
        try:
            shapes = [self.gaps(False, 3, False), self.gaps(False, 1, True)]
        except Exception as error:  # what a template does is up to whoever wrote it
            raise ModelError(f"The chat template of this model cannot render a conversation: {error}.") from error
        try:
            shapes.append(self.gaps(True, 3, False))
            self.system_role = True
        except Exception:
            # refused, left out, or moved (to the last turn, say, where no cache could keep it)
            self.system_role = False
        self.heads = [shape[0] for shape in shapes]
        self.between = [gap for shape in shapes for gap in shape[1:]]
        plain = [control.sub("\n", gap) for gap in self.between]
        self.defuse = _PlainMarkers("\n".join(control.sub("\n", head) for head in self.heads), plain).defuse

    def gaps(self, system: bool, turns: int, continuing: bool) -> list[str]:
        """The texts around the contents of `turns` (odd) turns, user and assistant in alternation.

        system: a system prompt comes before them. continuing: the beginning of the answer comes last. There is one gap
        before each content and, unless continuing, one more, which asks for the answer. Raises what jinja raises if the
        template refuses, LookupError if it does not show every content once and in order.
        """
        roles = ["system"] * system + [("user", "assistant")[number % 2] for number in range(turns + continuing)]
        text = self._tokenizer.apply_chat_template(
            [{"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=not continuing,
            enable_thinking=False,  # known to templates of models that can think first: in a chat, people wait for it
        )
        assert isinstance(text, str)
        gaps = _PLACEHOLDER.split(text)
        if gaps[1::2] != [str(number) for number in range(len(roles))]:
            raise LookupError("it loses, repeats or moves what is said")
        gaps = gaps[::2]
        single = [gaps[0], *(self._doubled.sub(r"\1", gap) for gap in gaps[1:])]
        return single[:-1] if continuing else single


class _PlainMarkers:
    """The plain-text markers of one template. `head` comes before the first content, `between` around the others."""

    def __init__(self, head: str, between: Iterable[str]) -> None:
        between = list(between)
        brackets = {found for text in (head, *between) for found in _BRACKETED.findall(text)}
        # The head may hold prose of the template's own, where a colon at the start of a line means nothing.
        lines = [line for text in between for line in text.splitlines()]
        labels = {match.group(1) for line in lines if (match := _LABEL.match(line))}
        either = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
        self._brackets = re.compile("|".join(map(re.escape, brackets)) or "(?!)")
        self._labels = re.compile(rf"(?:\A|(?<=[{_ENDS}])){_SPACE}(?:{either}){_SPACE}:" if either else "(?!)", re.I)

    def defuse(self, text: str) -> str:
        """`text` without anything that reads as one of the markers."""
        text = self._brackets.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)
        return self._labels.sub(lambda found: f"{found.group()[:-1]} :", text)
