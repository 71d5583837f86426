"""Tests a model that sees: its prompts are those of the real processor, and its answers those of the real class."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Qwen3VLForConditionalGeneration

from bot.engine.client.process import EngineProcess
from bot.engine.text.decoding import TextDecoder
from bot.engine.text.prompts import PromptBuilder
from bot.models.picture_processor import PictureProcessor, load_processor
from bot.types.engine import EngineRequest, ModelSource
from bot.types.messages import FinishReason, Picture, Prompt, Role, TokenDelta, Turn
from tests.support.builders.engine_requests import GREEDY
from tests.support.builders.picture_files import encoded, half_red, noise
from tests.support.builders.tiny_vision_model import WINDOW, make_tiny_vision_model

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

RED = Picture("red.png", "image/png", encoded(half_red(), "PNG"), 60, 40)
NOISE = Picture("noise.png", "image/png", encoded(noise(90, 200), "PNG"), 90, 200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vision_model(tmp_path_factory.mktemp("vision"))


def processor_of(folder: Path) -> PictureProcessor:
    found, why = load_processor(folder, AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert found is not None, why
    return found


def conversation(*turns: tuple[str, tuple[Picture, ...]]) -> Prompt:
    """A prompt of turns that alternate between a user and the assistant."""
    roles = (Role.USER, Role.ASSISTANT)
    return Prompt("", tuple(Turn(roles[n % 2], "", text, str(n), 0.0, shown) for n, (text, shown) in enumerate(turns)))


TALK = conversation(("What is it?", (RED, NOISE)), ("Two things.", ()), ("And <|image_pad|> this?", (NOISE,)))


async def test_a_prompt_is_what_the_real_processor_makes_of_it(folder: Path) -> None:
    ours = processor_of(folder)
    builder = PromptBuilder(AutoTokenizer.from_pretrained(folder), "", WINDOW, pictures=ours)
    harmless = replace(TALK, turns=(*TALK.turns[:2], replace(TALK.turns[2], text="And this?")))
    built = builder.build(harmless, 10)
    real: Any = ours._processor
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>"
        "What is it?<|im_end|>\n<|im_start|>assistant\nTwo things.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>And this?<|im_end|>\n<|im_start|>assistant\n"
    )
    images = [Image.open(io.BytesIO(each.data)) for each in (RED, NOISE, NOISE)]
    expected = real(text=[text], images=images, return_tensors="pt")
    assert built.ids == expected["input_ids"][0].tolist()
    assert built.pictures == (RED, NOISE, NOISE)
    inputs = ours.inputs(built.pictures, built.ids)
    assert inputs.keys() == expected.keys() - {"input_ids", "attention_mask"}
    for name, value in inputs.items():
        assert torch.equal(value, expected[name]), name


async def test_the_text_of_a_picture_s_token_is_no_picture(folder: Path) -> None:
    ours = processor_of(folder)
    built = PromptBuilder(AutoTokenizer.from_pretrained(folder), "", WINDOW, pictures=ours).build(TALK, 10)
    tokens = sum(len(ours.ids(each)) for each in (RED, NOISE, NOISE))
    assert built.ids.count(ours.token_id) == tokens


async def test_the_oldest_pictures_are_dropped_first(folder: Path) -> None:
    ours = processor_of(folder)
    builder = PromptBuilder(AutoTokenizer.from_pretrained(folder), "", WINDOW, pictures=ours)
    whole = builder.build(TALK, 10)
    built = builder.build(TALK, 10, len(whole.ids) + 9)
    assert (built.dropped_pictures, built.dropped_turns) == (2, 0)
    assert built.pictures == (NOISE,)


async def answer(engine: EngineProcess, prompt: Prompt, name: str) -> tuple[str, TokenDelta]:
    deltas = [delta async for delta in engine.stream(EngineRequest(name, prompt, replace(GREEDY, max_tokens=12)))]
    return "".join(delta.text for delta in deltas), deltas[-1]


async def test_the_engine_answers_as_the_real_class(engine: EngineProcess, folder: Path) -> None:
    loaded = await engine.load(ModelSource("seeing", str(folder), device="cpu", dtype="float32"), lambda _: None)
    assert loaded.capabilities.vision is True
    assert (loaded.batching, loaded.max_running) == (False, 1)
    ours, tokenizer = processor_of(folder), AutoTokenizer.from_pretrained(folder)
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    said = []
    for number, prompt in enumerate((TALK, conversation(("What is it?", (RED,))), conversation(("Hello.", ())))):
        built = PromptBuilder(tokenizer, "", WINDOW, pictures=ours).build(prompt, 12)
        ids = torch.tensor([built.ids])
        inputs = ours.inputs(built.pictures, built.ids)
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, **inputs)
        new = [each for each in made[0][len(built.ids) :].tolist() if each != tokenizer.eos_token_id]
        text, last = await answer(engine, prompt, f"r{number}")
        decoder = TextDecoder(tokenizer)
        assert text == decoder.push(new) + decoder.flush()
        assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        assert last.usage is not None
        assert (last.usage.prompt_tokens, last.usage.dropped_pictures) == (len(built.ids), 0)
        said.append(text)
    other = conversation(("What is it?", (NOISE,)))
    assert (await answer(engine, other, "other"))[0] != said[1], "the answer depends on the pixels"
