"""Chat templates: what stands around the contents of a conversation.

Comes in: a tokenizer, and the name of one of our own templates for a model without one. Goes out: the gaps, which are the
texts before, between and after the contents. Promises: contents never pass through the template, so nothing in them can
steer it; what it can do (a system role or not) is found out once, here, by rendering placeholders.

What need not be found out: the conversations that are rendered begin with a user turn and alternate (the caller joins
neighbours of one role, which every template takes and which reads the same), and contents are stripped before they come.
"""

import re

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from bot.engine.markers import PlainMarkers
from bot.errors import ModelError

# Phi-2's repository has no template. Of the two forms it was trained on, questions and answers, repeated, are used and not
# its dialogue of Alice and Bob: names of its own would mix with those of the people in a channel.
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


class ChatTemplate:
    """One model's template. `system_role`: it takes a system prompt, and puts it before the first user turn.

    Raises ModelError if there is no template, or if it cannot render a plain conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, control: re.Pattern[str]) -> None:
        if not name and not tokenizer.chat_template:
            raise ModelError(
                "This model has no chat template: it is a base model, not one for conversations. Choose its instruct or "
                f"chat variant, or name one of our templates in the catalog ({', '.join(TEMPLATES)})."
            )
        self._tokenizer = tokenizer
        self._template = TEMPLATES[name] if name else None
        # A header for the answer that is written twice: by the user's turn and again by the assistant's, or by both the
        # user's turn and the generation prompt. One is meant.
        self._doubled = re.compile(f"((?:{control.pattern}).*?)\\1\\Z", re.DOTALL)
        try:
            shapes = [self._render(False, 3, False), self._render(False, 1, True)]
        except (TemplateError, LookupError) as error:
            raise ModelError(f"The chat template of this model cannot render a conversation: {error}.") from error
        try:
            shapes.append(self._render(True, 3, False))
            self.system_role = True
        except (
            TemplateError,
            LookupError,
        ):  # refused, left out, or put elsewhere (into the last turn, so never stable)
            self.system_role = False
        self.heads = [shape[0] for shape in shapes]
        self.between = [gap for shape in shapes for gap in shape[1:]]
        plain = [control.sub("\n", gap) for gap in self.between]
        self.defuse = PlainMarkers("\n".join(control.sub("\n", head) for head in self.heads), plain).defuse

    def gaps(self, system: bool, turns: int, continuing: bool) -> list[str]:
        """The texts around the contents of `turns` (odd) turns, user and assistant in alternation.

        system: a system prompt comes before them. continuing: the beginning of the answer comes after them, and nothing
        after it; else the last gap asks for the answer. So there is one gap before each content, and one last one if not
        continuing.
        """
        return self._render(system, turns, continuing)

    def _render(self, system: bool, turns: int, continuing: bool) -> list[str]:
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
