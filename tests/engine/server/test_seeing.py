"""Tests models that see in the engine's process: their answers are those of transformers' own classes."""

import asyncio
import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from bot.engine.client.process import EngineProcess
from bot.engine.client.protocol import Generate, frame
from bot.engine.text.decoding import TextDecoder
from bot.engine.text.prompts import PromptBuilder
from bot.models.loading import layer_map, layers_of
from bot.models.packing import pack
from bot.models.picture_processor import PictureProcessor, load_processor
from bot.types.engine import EngineRequest, LoadedModel, ModelSource
from bot.types.messages import FinishReason, Picture, Prompt, Role, TokenDelta, Turn
from tests.support.builders.engine_requests import GREEDY
from tests.support.builders.picture_files import encoded, half_red, noise
from tests.support.builders.tiny_vision_model import KINDS, WINDOW, make_tiny_vision_model

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

RED = Picture("red.png", "image/png", encoded(half_red(), "PNG"), 60, 40)
NOISE = Picture("noise.png", "image/png", encoded(noise(90, 200), "PNG"), 90, 200)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_vision_model(tmp_path_factory.mktemp(request.param), request.param)


def processor_of(folder: Path) -> PictureProcessor:
    found, why = load_processor(folder, AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert found is not None, why
    return found


def conversation(*turns: tuple[str, tuple[Picture, ...]]) -> Prompt:
    """A prompt of turns that alternate between a user and the assistant."""
    roles = (Role.USER, Role.ASSISTANT)
    return Prompt("", tuple(Turn(roles[n % 2], "", text, str(n), 0.0, shown) for n, (text, shown) in enumerate(turns)))


TALK = conversation(("What is it?", (RED, NOISE)), ("Two things.", ()), ("And this?", (NOISE,)))
ONE = conversation(("What is it?", (RED,)))
OTHER = conversation(("What is it?", (NOISE,)))
TEXT = conversation(("Hello.", ()))


async def answer(engine: EngineProcess, prompt: Prompt, name: str) -> tuple[str, TokenDelta]:
    deltas = [delta async for delta in engine.stream(EngineRequest(name, prompt, replace(GREEDY, max_tokens=12)))]
    return "".join(delta.text for delta in deltas), deltas[-1]


async def load(engine: EngineProcess, folder: Path, dtype: str = "float32") -> LoadedModel:
    return await engine.load(ModelSource(folder.name, str(folder), device="cpu", dtype=dtype), lambda _: None)


async def test_the_engine_answers_as_the_real_class(engine: EngineProcess, folder: Path) -> None:
    loaded = await load(engine, folder)
    assert loaded.capabilities.vision is True
    assert (loaded.batching, loaded.max_running > 1) == (True, True)
    assert loaded.note.endswith("Questions with pictures are answered one at a time.")
    ours, tokenizer = processor_of(folder), AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    said = []
    for number, prompt in enumerate((TALK, ONE, TEXT, replace(TALK, prefix="It is"))):
        built = PromptBuilder(tokenizer, "", WINDOW, pictures=ours).build(prompt, 12)
        ids = torch.tensor([built.ids])
        inputs = ours.inputs(built.pictures, built.ids)
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, **inputs)
        new = [each for each in made[0][len(built.ids) :].tolist() if each != tokenizer.eos_token_id]
        text, last = await answer(engine, prompt, f"r{number}")
        decoder = TextDecoder(tokenizer, continues=built.ids if prompt.prefix else ())
        assert text == decoder.push(new) + decoder.flush()
        assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        assert last.usage is not None
        assert (last.usage.prompt_tokens, last.usage.dropped_pictures) == (len(built.ids), 0)
        said.append(text)
    assert (await answer(engine, OTHER, "other"))[0] != said[1], "the answer depends on the pixels"


async def test_pictures_and_text_at_once_are_answered_as_alone(engine: EngineProcess, folder: Path) -> None:
    await load(engine, folder)
    mixed = [TEXT, ONE, conversation(("Who?", ())), conversation(("Where?", ())), OTHER, TALK, TEXT]
    alone = [(await answer(engine, prompt, f"alone{number}"))[0] for number, prompt in enumerate(mixed)]
    together = await asyncio.gather(*(answer(engine, prompt, f"r{number}") for number, prompt in enumerate(mixed)))
    assert [text for text, _ in together] == alone
    assert len(set(alone)) == 6


async def test_a_picture_that_waits_can_be_stopped(engine: EngineProcess, folder: Path) -> None:
    await load(engine, folder)
    endless = replace(GREEDY, max_tokens=1000, stop=())
    first = aiter(engine.stream(EngineRequest("first", ONE, endless)))
    await anext(first)
    waiting = asyncio.create_task(answer(engine, OTHER, "waiting"))
    later = asyncio.create_task(answer(engine, TEXT, "later"))
    await engine.stats()  # both are on their way when its answer comes
    await engine.abort("waiting")
    assert (await waiting)[1].finish_reason is FinishReason.ABORT
    await engine.abort("first")
    assert [delta async for delta in first][-1].finish_reason is FinishReason.ABORT
    assert (await later)[0] == (await answer(engine, TEXT, "again"))[0]


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
async def test_it_sees_in_16_bits(engine: EngineProcess, folder: Path, dtype: str) -> None:
    await load(engine, folder, dtype)
    first, last = await answer(engine, ONE, "red")
    assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert first != (await answer(engine, OTHER, "noise"))[0]


async def test_packed_weights_see_the_same(folder: Path) -> None:
    whole: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    packed = copy.deepcopy(whole)
    pack(packed, "float16")
    ours = processor_of(folder)
    built = PromptBuilder(AutoTokenizer.from_pretrained(folder), "", WINDOW, pictures=ours).build(TALK, 12)
    ids, inputs = torch.tensor([built.ids]), ours.inputs(built.pictures, built.ids)
    with torch.inference_mode():
        expected, found = (model(ids, **inputs).logits[0, -1] for model in (whole, packed))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


async def test_without_files_for_pictures_it_reads_text(engine: EngineProcess, folder: Path, tmp_path: Path) -> None:
    blind = Path(shutil.copytree(folder, tmp_path / "blind"))
    for name in ("preprocessor_config.json", "processor_config.json"):
        (blind / name).unlink(missing_ok=True)
    loaded = await load(engine, blind)
    assert loaded.capabilities.vision is False
    assert loaded.note.count("It reads text only, because its files for pictures") == 1
    text, last = await answer(engine, TEXT, "text")
    assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    await load(engine, folder)
    assert text == (await answer(engine, TEXT, "again"))[0]


async def test_the_layers_of_text_are_found_beside_those_of_pictures(folder: Path) -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    count = model.config.get_text_config().num_hidden_layers
    assert count == 2, "as many as the layers for pictures"
    layers = layers_of(model)
    assert layers[:count] == list(model.get_decoder().layers)
    assert len(layers) > count
    placed = layer_map(model.config, 1, multimodal=True)
    split = AutoModelForImageTextToText.from_pretrained(folder, device_map=dict.fromkeys(placed, "cpu"))
    assert {name: weight.shape for name, weight in split.named_parameters()} == {
        name: weight.shape for name, weight in model.named_parameters()
    }
    assert sorted(name.rpartition(".")[2] for name, device in placed.items() if device == "cpu") == ["1"]


async def test_a_request_of_the_largest_pictures_reaches_the_process(engine: EngineProcess, folder: Path) -> None:
    data = encoded(noise(560, 560), "PNG") + bytes(100_000)
    pictures = tuple(Picture(f"{n}.png", "image/png", data + bytes([n]), 560, 560) for n in range(8))
    assert 1_000_000 < len(data) < 1_100_000
    prompt = conversation(("What are they?", pictures))
    assert len(frame(Generate(1, EngineRequest("large", prompt, GREEDY)))) > 8_000_000
    await load(engine, folder)
    _, last = await answer(engine, prompt, "large")
    assert last.usage is not None
    assert last.usage.dropped_pictures == 0
