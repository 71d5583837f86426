"""Tests the prompt of each kind of template, equal to the library's for ordinary text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase

from bot.engine.text.prompts import PromptBuilder
from bot.types.errors import ModelError, RequestFailed
from bot.types.messages import Prompt, Turn
from tests.support.builders.catalog_tokenizers import QWEN_3_8
from tests.support.builders.prompt_tokenizers import (
    CHATML,
    LLAMA_3,
    LLAMA_3_TOKENS,
    MISTRAL,
    PHI_4,
    PHI_4_EARLY,
    PHI_4_TOKENS,
    PHI_4_TWICE,
    ask,
    bot,
    byte_level,
    mistral,
    mistral_file,
    user,
)

CHAT = (user("What is 1 + 1?"), bot("It is 2."), user("And 2 + 2?"))
TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Co", "Cs"]),
        st.sampled_from("\n\t  aé東🙂🏳️‍🌈नमस्तेمرحبا"),
    ),
    max_size=40,
)


def render(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, template: str = "") -> str:
    text = tokenizer.decode(PromptBuilder(tokenizer, template, 4096).build(prompt, 100).ids)
    assert isinstance(text, str)
    return text


def plain_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    encoding = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert isinstance(encoding, BatchEncoding)
    return list(encoding["input_ids"])


@pytest.mark.parametrize("template", [PHI_4, PHI_4_EARLY, PHI_4_TWICE], ids=["fixed", "early", "twice"])
def test_phi_4_has_one_header_a_turn_whichever_template_came_with_it(template: str) -> None:
    assert render(byte_level(template, PHI_4_TOKENS), ask(*CHAT, system="Be brief.")) == (
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|>"
        "<|im_start|>user<|im_sep|>What is 1 + 1?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>It is 2.<|im_end|>"
        "<|im_start|>user<|im_sep|>And 2 + 2?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>"
    )


@pytest.mark.parametrize("template", [PHI_4, PHI_4_EARLY, PHI_4_TWICE], ids=["fixed", "early", "twice"])
def test_phi_4_goes_on_with_an_answer(template: str) -> None:
    assert render(byte_level(template, PHI_4_TOKENS), ask(user("Count."), prefix="One, two, ")) == (
        "<|im_start|>user<|im_sep|>Count.<|im_end|><|im_start|>assistant<|im_sep|>One, two, "
    )


def test_phi_2_repeats_question_and_answer() -> None:
    assert render(byte_level(None), ask(*CHAT, system="Be brief."), "phi-2") == (
        "Be brief.\nInstruct: What is 1 + 1?\nOutput: It is 2.\nInstruct: And 2 + 2?\nOutput:"
    )


def test_phi_2_goes_on_with_an_answer() -> None:
    prompt = ask(user("Count."), prefix="One, two, ")
    assert render(byte_level(None), prompt, "phi-2") == "Instruct: Count.\nOutput: One, two, "


def test_mistral_has_the_system_prompt_in_the_first_turn() -> None:
    assert render(mistral(), ask(*CHAT, system="Be brief.")) == (
        "<s>[INST] Be brief.\n\nWhat is 1 + 1?[/INST] It is 2.</s>[INST] And 2 + 2?[/INST]"
    )


def test_llama_3() -> None:
    assert render(byte_level(LLAMA_3, LLAMA_3_TOKENS), ask(*CHAT, system="Be brief.", prefix="4, ")) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 1 + 1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is 2.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd 2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n4, "
    )


def test_smollm2_text_and_ids(smollm2_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    built = PromptBuilder(tokenizer, "", 8192).build(ask(user("What is 1 + 1?"), system="Be brief."), 100)
    assert tokenizer.decode(built.ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    system = [1, 9690, 198, 6077, 5453, 30, 2, 198]
    question = [1, 4093, 198, 1780, 314, 216, 33, 1232, 216, 33, 47, 2, 198]
    assert built.ids == [*system, *question, 1, 520, 9531, 198]


def test_smollm2_is_what_the_library_makes_of_ordinary_text(smollm2_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    equals_the_library(tokenizer, system=True)


def test_mistral_is_what_the_library_makes_of_ordinary_text() -> None:
    equals_the_library(mistral(), system=False)


def equals_the_library(tokenizer: PreTrainedTokenizerBase, system: bool) -> None:
    builder = PromptBuilder(tokenizer, "", 8192)

    @given(TEXTS, TEXTS, TEXTS)
    def check(first: str, second: str, third: str) -> None:
        first, second, third = (text.strip() or "x" for text in (first, second, third))
        messages = [
            {"role": "system", "content": third},
            {"role": "user", "content": first},
            {"role": "assistant", "content": second},
            {"role": "user", "content": third},
        ]
        ours = builder.build(ask(user(first), bot(second), user(third), system=third if system else ""), 10)
        assert ours.ids == plain_ids(tokenizer, messages[not system :])

    check()


@pytest.mark.parametrize(
    "text", ["Hi there", "  How\n\n\tare you? ", "東京 🙂 नमस्ते ᚠᛇᚻ", "f(x) {\n    return;\n}", "…"]
)
def test_mistral_is_what_mistral_common_makes_of_it(text: str) -> None:
    reference = MistralTokenizer.from_file(str(mistral_file()))
    for turns, messages in (
        ((user(text),), [UserMessage(content=text.strip())]),
        (
            (user("Hello"), bot(text), user(text)),
            [
                UserMessage(content="Hello"),
                AssistantMessage(content=text.strip()),
                UserMessage(content=text.strip()),
            ],
        ),
        (
            (user("One"), user(text), bot("Two"), user("Three"), user(text)),
            [
                UserMessage(content="One"),
                UserMessage(content=text.strip()),
                AssistantMessage(content="Two"),
                UserMessage(content="Three"),
                UserMessage(content=text.strip()),
            ],
        ),
    ):
        theirs = reference.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens
        assert PromptBuilder(mistral(), "", 4096).build(ask(*turns), 100).ids == theirs
    with_system = [SystemMessage(content="Be brief."), UserMessage(content=text.strip())]
    ours = PromptBuilder(mistral(), "", 4096).build(ask(user(text), system="Be brief."), 100).ids
    assert ours == reference.encode_chat_completion(ChatCompletionRequest(messages=with_system)).tokens


def test_names_stand_before_what_is_said_once_two_people_speak() -> None:
    tokenizer = byte_level(CHATML)
    alone = render(tokenizer, ask(user("Hi"), bot("Hello."), user("Bye")))
    assert "Ana" not in alone
    assert render(tokenizer, ask(user("Hi"), bot("Hello."), user("And me?", "Ben \n Ray"), user("Wait"))) == (
        "<|im_start|>user\nAna: Hi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBen Ray: And me?\n\nAna: Wait<|im_end|>\n<|im_start|>assistant\n"
    )


def test_neighbours_of_one_role_become_one_turn_and_empty_ones_are_left_out() -> None:
    turns = (bot("Welcome."), user("One"), user(" \n"), user("Two"), bot("Three"), bot(""), bot("Four"), user("Five "))
    assert render(byte_level(CHATML), ask(*turns)) == (
        "<|im_start|>user\nOne\n\nTwo<|im_end|>\n<|im_start|>assistant\nThree\n\nFour<|im_end|>\n"
        "<|im_start|>user\nFive<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_beginning_stays_the_same_from_turn_to_turn() -> None:
    builder = PromptBuilder(mistral(), "", 4096)
    before = builder.build(ask(*CHAT, system="Be brief."), 100).ids
    after = builder.build(ask(*CHAT, bot("It is 4."), user("And 4 + 4?"), system="Be brief."), 100).ids
    assert after[: len(before)] == before


def test_what_is_generated_is_what_the_next_prompt_says_was_generated() -> None:
    builder = PromptBuilder(mistral(), "", 4096)
    continued = builder.build(ask(*CHAT, prefix="It is"), 100).ids
    finished = builder.build(ask(*CHAT, bot("It is 4."), user("Thanks")), 100).ids
    assert finished[: len(continued)] == continued


def test_a_template_that_moves_the_system_prompt_gets_it_in_the_first_turn() -> None:
    moving = (
        "{% for message in messages if message['role'] != 'system' %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n' }}{% endif %}"
        "{{ message['content'] }}<|im_end|>{% endfor %}"
    )
    assert render(byte_level(moving), ask(*CHAT, system="Be brief.")).startswith(
        "<|im_start|>user\nBe brief.\n\nWhat is 1 + 1?<|im_end|>"
    )


def test_a_template_that_can_think_first_is_asked_not_to() -> None:
    thinking = CHATML + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    assert render(byte_level(thinking), ask(user("Hi"))).endswith("<|im_start|>assistant\n<think></think>")


QWEN_3 = CHATML.replace(
    "<|im_start|>assistant\n'",
    "<|im_start|>assistant\n' ~ ('<think>\n\n</think>\n\n' if enable_thinking is false else '')",
)
QWEN_3_5 = CHATML.replace(
    "<|im_start|>assistant\n'",
    "<|im_start|>assistant\n<think>\n' ~ ('\n</think>\n\n' if enable_thinking is false else '')",
)
GPT_OSS = "{{ 'Reasoning: ' ~ (reasoning_effort or 'medium') }}" + CHATML
GRADED = QWEN_3.replace("enable_thinking is false", "reasoning_effort == 'low' or not enable_thinking")
ALWAYS = CHATML.replace("<|im_start|>assistant\n'", "<|im_start|>assistant\n<think>\n'")
FAILING = "{% if enable_thinking %}{{ raise_exception('no thinking here') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "efforts", "thinks"),
    [
        (CHATML, (), False),
        (QWEN_3, ("off", "low", "high"), True),
        (QWEN_3_5, ("off", "low", "high"), True),
        (GPT_OSS, ("low", "high"), True),
        (GRADED, ("off", "low", "high"), True),
        (QWEN_3_8, ("off", "low", "high"), True),
        (ALWAYS, (), True),
        (FAILING, (), True),
    ],
)
def test_what_a_template_knows_of_thinking(template: str, efforts: tuple[str, ...], thinks: bool) -> None:
    prompts = PromptBuilder(byte_level(template), "", 4096)
    assert (prompts.capabilities.efforts, prompts.capabilities.reasoning) == (efforts, thinks)


@pytest.mark.parametrize(
    ("template", "effort", "opening"),
    [
        (QWEN_3, "", "assistant\n<think>\n\n</think>\n\n"),
        (QWEN_3, "off", "assistant\n<think>\n\n</think>\n\n"),
        (QWEN_3, "high", "assistant\n"),
        (QWEN_3_5, "high", "assistant\n<think>\n"),
        (QWEN_3_5, "", "assistant\n<think>\n\n</think>\n\n"),
        (ALWAYS, "off", "assistant\n<think>\n"),
        (CHATML, "high", "assistant\n"),
    ],
)
def test_an_effort_changes_what_opens_the_answer(template: str, effort: str, opening: str) -> None:
    tokenizer = byte_level(template)
    built = PromptBuilder(tokenizer, "", 4096).build(ask(user("Hi")), 100, effort=effort)
    assert built.opening.endswith(opening)
    assert str(tokenizer.decode(built.ids)).endswith(built.opening)


@pytest.mark.parametrize(
    ("template", "effort", "beginning"),
    [
        (GPT_OSS, "high", "Reasoning: high"),
        (QWEN_3_8, "high", "Effort: xhigh"),
        (QWEN_3_8, "low", "Effort: low"),
        (QWEN_3_8, "", "<|im_start|>user"),
    ],
)
def test_an_effort_that_stands_in_the_system_prompt_is_read(template: str, effort: str, beginning: str) -> None:
    tokenizer = byte_level(template)
    built = PromptBuilder(tokenizer, "", 4096).build(ask(user("Hi")), 100, effort=effort)
    assert str(tokenizer.decode(built.ids)).startswith(beginning)


def test_a_model_without_a_template_is_refused_with_a_way_out() -> None:
    with pytest.raises(ModelError, match=r"no chat template.*phi-2"):
        PromptBuilder(byte_level(None), "", 4096)


@pytest.mark.parametrize(
    "template", ["{{ messages[-1]['content'] }}", "{{ raise_exception('only tools here') }}", "{{ messages[0].x.y }}"]
)
def test_a_template_that_cannot_hold_a_conversation_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="cannot render a conversation"):
        PromptBuilder(byte_level(template), "", 4096)


@pytest.mark.parametrize("turns", [(), (user(" "),), (bot("Hello"),), (user("Hi"), bot("Hello"))])
def test_no_question_no_prompt(turns: tuple[Turn, ...]) -> None:
    with pytest.raises(RequestFailed, match="no question"):
        PromptBuilder(byte_level(CHATML), "", 4096).build(ask(*turns), 100)


def test_the_template_of_mistral_really_refuses_neighbours() -> None:
    with pytest.raises(Exception, match="alternate"):
        byte_level(MISTRAL).apply_chat_template([{"role": "user", "content": "Hi"}] * 2)
