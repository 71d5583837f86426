"""Tests one generation's state: thoughts beside text, and how many tokens each of them may take."""

from bot.engine.client.protocol import Text
from bot.engine.server.answer import Answer, Meter
from bot.engine.text.decoding import TextDecoder
from bot.engine.text.prompts import BuiltPrompt
from bot.types.messages import FinishReason, SamplingParams
from tests.support.builders.prompt_tokenizers import CHATML, byte_level

TOKENIZER = byte_level(CHATML)
EOS = 0


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def made(max_tokens: int, think_tokens: int) -> Answer:
    params = SamplingParams(max_tokens=max_tokens, think_tokens=think_tokens)
    return Answer(1, BuiltPrompt([1], 0, 512), params, TextDecoder(TOKENIZER), frozenset({EOS}), Meter())


def run(answer: Answer, tokens: list[int], step: int) -> tuple[str, str, FinishReason | None]:
    """Pushes `step` tokens at a time until the answer ends; its text, its thoughts and why it ended."""
    deltas: list[Text | None] = []
    for at in range(0, len(tokens), step):
        deltas.append(answer.push(tokens[at : at + step], 1.0))
        if (reason := answer.reason()) is not None:
            deltas[-1] = answer.end(deltas[-1], reason)
            break
    text, thoughts = ("".join(getattr(each, name) for each in deltas if each) for name in ("text", "reasoning"))
    return text, thoughts, deltas[-1].finish_reason if deltas[-1] else None


def test_thoughts_and_text_are_two_streams() -> None:
    for step in (1, 3, 100):
        answer = made(50, 0)
        assert run(answer, [*ids("<think>Hm.</think>Yes."), EOS], step) == ("Yes.", "Hm.", FinishReason.STOP)


def test_thoughts_have_a_budget_besides_the_answer() -> None:
    thoughts, text = ids("<think>" + "hm " * 30 + "</think>"), ids("Yes. " * 30)
    for step in (1, 3, 100):
        answer = made(10, 200)
        said, _, reason = run(answer, [*thoughts, *text], step)
        assert reason is FinishReason.LENGTH
        assert len(answer.tokens) - answer.thought == 10
        assert "Yes. " * 30 != said.strip() != ""
    answer = made(10, 0)
    assert run(answer, [*thoughts, *text], 1)[0] == ""
    assert len(answer.tokens) == 10


def test_thoughts_that_spend_everything_end_the_answer() -> None:
    answer = made(10, 20)
    said, thoughts, reason = run(answer, ids("<think>" + "hm " * 90), 1)
    assert (said, reason, len(answer.tokens)) == ("", FinishReason.LENGTH, 30)
    assert "hm hm" in thoughts
    assert answer.left == 0


def test_the_end_of_an_answer_has_what_was_held_back() -> None:
    answer = made(50, 0)
    assert run(answer, [*ids("<think>Hm.</think>It is <th"), EOS], 1) == ("It is <th", "Hm.", FinishReason.STOP)
    answer = made(50, 0)
    assert run(answer, [*ids("<think>Hm.</thi"), EOS], 1) == ("", "Hm.</thi", FinishReason.STOP)
