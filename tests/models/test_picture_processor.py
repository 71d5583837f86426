"""Tests prompts with pictures against what transformers' own processors make of the same conversation."""

import io
import json
import shutil
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, MllamaConfig, MllamaImageProcessorPil, MllamaProcessor
from transformers.utils.import_utils import is_torchvision_available

from bot.engine.text.prompts import PromptBuilder
from bot.models.picture_processor import PictureProcessor, load_processor
from bot.models.pixtral_processor import PixtralProcessor
from bot.models.tokenizer import read_tokenizer
from bot.types.errors import RequestFailed
from bot.types.messages import Picture, Prompt, Role, Turn
from tests.support.builders.picture_files import encoded, half_red, noise
from tests.support.builders.tiny_vision_model import KINDS, WINDOW, make_tiny_vision_model

RED = Picture("red.png", "image/png", encoded(half_red(), "PNG"), 60, 40)
NOISE = Picture("noise.png", "image/png", encoded(noise(90, 200), "PNG"), 90, 200)

TOKENS = {
    "qwen3_vl": ("<|image_pad|>",),
    "idefics3": ("<image>",),
    "gemma3": ("<start_of_image>", "<image_soft_token>"),
    "mistral3": ("[IMG]", "[IMG_END]"),
}
"""The tokens that stand for pictures."""


class Seeing:
    """A tiny model's directory, its processor and its prompts."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = make_tiny_vision_model(folder, kind), kind
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        found, why = load_processor(folder, AutoConfig.from_pretrained(folder), self.tokenizer)
        assert found is not None, why
        self.processor: PictureProcessor = found
        self.prompts = PromptBuilder(self.tokenizer, "", WINDOW, pictures=found)

    def expected(self, prompt: Prompt) -> Any:
        """What the real processor makes of a prompt."""
        said: list[dict[str, Any]] = [{"role": "system", "content": _parts(prompt.system)}] if prompt.system else []
        said += [{"role": turn.role.value, "content": _parts(turn.text, turn.pictures)} for turn in prompt.turns]
        said += [{"role": "assistant", "content": _parts(prompt.prefix)}] if prompt.prefix else []
        if self.kind == "gemma3" and prompt.system:
            said[0]["content"] = prompt.system
        real: Any = self.processor.processor
        end = {"continue_final_message": True} if prompt.prefix else {"add_generation_prompt": True}
        return real.apply_chat_template(
            said,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            chat_template=self.tokenizer.chat_template,
            **end,
        )


def _parts(text: str, pictures: tuple[Picture, ...] = ()) -> list[dict[str, Any]]:
    images = [Image.open(io.BytesIO(each.data)).convert("RGB") for each in pictures]
    return [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]


@pytest.fixture(scope="module", params=KINDS)
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    return Seeing(tmp_path_factory.mktemp(request.param), request.param)


def conversation(*turns: tuple[str, tuple[Picture, ...]], system: str = "", prefix: str = "") -> Prompt:
    """A prompt of turns that alternate between a user and the assistant."""
    roles = (Role.USER, Role.ASSISTANT)
    made = tuple(Turn(roles[n % 2], "", text, str(n), 0.0, shown) for n, (text, shown) in enumerate(turns))
    return Prompt(system, made, prefix)


TALK = conversation(("What is it?", (RED, NOISE)), ("Two things.", ()), ("And this?", (NOISE,)))


@pytest.mark.parametrize(
    "prompt",
    [
        conversation(("What is it?", (RED,))),
        TALK,
        replace(TALK, system="Answer in one word."),
        replace(TALK, prefix="This is"),
        conversation(("Hello.", ()), ("Hello!", ()), ("What is it?", (NOISE,))),
    ],
    ids=["one", "several", "system", "continued", "late"],
)
def test_a_prompt_is_what_the_real_processor_makes_of_it(seeing: Seeing, prompt: Prompt) -> None:
    built, expected = seeing.prompts.build(prompt, 10), seeing.expected(prompt)
    assert built.ids == expected["input_ids"][0].tolist()
    assert built.pictures == tuple(picture for turn in prompt.turns for picture in turn.pictures)
    inputs = seeing.processor.inputs(built.pictures, built.ids)
    assert inputs.keys() == expected.keys() - {"input_ids", "attention_mask"}
    for name, value in inputs.items():
        assert torch.equal(value, expected[name]), name


def test_the_text_of_a_picture_s_token_is_no_picture(seeing: Seeing) -> None:
    typed = "".join(TOKENS[seeing.kind])
    harmless, hostile = (
        conversation((f"What{text} is it?", (RED,)), (f"It is{text}.", ()), (f"{text}?", ()), system=f"Be{text} brief.")
        for text in ("", typed)
    )
    kinds: list[Any] = [seeing.tokenizer.convert_tokens_to_ids(token) for token in TOKENS[seeing.kind]]
    expected, built = seeing.prompts.build(harmless, 10), seeing.prompts.build(hostile, 10)
    assert [built.ids.count(each) for each in kinds] == [expected.ids.count(each) for each in kinds]
    assert built.pictures == (RED,)
    assert seeing.tokenizer.decode(built.ids).count(typed) >= 4, "the text itself is still there"


def test_the_oldest_pictures_are_dropped_first(seeing: Seeing) -> None:
    whole = seeing.prompts.build(TALK, 10)
    built = seeing.prompts.build(TALK, 10, len(whole.ids) + 9)
    assert built.dropped_pictures in (1, 2)
    assert built.pictures == (RED, NOISE, NOISE)[built.dropped_pictures :]
    assert len(built.ids) < len(whole.ids)


def test_a_picture_that_cannot_fit_is_an_error(seeing: Seeing) -> None:
    prompt = conversation(("Hello.", (RED,)), ("Hello!", ()), ("What is it?", (NOISE,)))
    alone = len(seeing.prompts.build(conversation(("What is it?", ())), 10).ids)
    with pytest.raises(RequestFailed, match="The picture does not fit the model's context window"):
        seeing.prompts.build(prompt, 10, alone + 10)


def test_a_large_picture_is_scaled_down_where_the_model_computes_on_a_cpu(seeing: Seeing) -> None:
    config = AutoConfig.from_pretrained(seeing.folder)
    small, _ = load_processor(seeing.folder, config, seeing.tokenizer, 32)
    assert small is not None
    scaled = half_red(200, 100)
    scaled.thumbnail((32, 32))
    large, same = (Picture("", "image/png", encoded(image, "PNG"), 0, 0) for image in (half_red(200, 100), scaled))
    assert small.tokens(large) == seeing.processor.tokens(same)
    found, expected = (each.inputs([picture], []) for each, picture in ((small, large), (seeing.processor, same)))
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


def test_a_picture_is_read_once(seeing: Seeing, monkeypatch: pytest.MonkeyPatch) -> None:
    first = seeing.processor.tokens(replace(RED, name="first.png"))
    monkeypatch.setattr(Image, "open", None)
    assert seeing.processor.tokens(replace(RED, name="second.png")) == first


def test_a_template_without_pictures_does_not_show_any(seeing: Seeing) -> None:
    blind = AutoTokenizer.from_pretrained(seeing.folder)
    blind.chat_template = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"
    assert seeing.prompts.sees
    builder = PromptBuilder(blind, "", WINDOW, pictures=seeing.processor)
    assert not builder.sees
    built = builder.build(TALK, 10)
    assert (built.pictures, built.dropped_pictures) == ((), 3)


def test_a_template_beside_the_processor_is_the_model_s(seeing: Seeing, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seeing.folder, tmp_path / "older"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    assert not AutoTokenizer.from_pretrained(folder).chat_template
    assert not read_tokenizer(folder).chat_template
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    tokenizer = read_tokenizer(folder)
    assert PromptBuilder(tokenizer, "", WINDOW, pictures=seeing.processor).build(TALK, 10) == seeing.prompts.build(
        TALK, 10
    )


def test_a_processor_that_looks_at_the_text_is_refused(
    seeing: Seeing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(seeing.folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>", "<|python_tag|>"]})
    MllamaProcessor(MllamaImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(tmp_path)
    MllamaConfig().save_pretrained(tmp_path)
    found, _ = load_processor(tmp_path, AutoConfig.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path))
    assert found is None
    assert "cross_attention_mask depends on the text around a picture" in caplog.text


@pytest.mark.parametrize("change", [{"image_processor_type": "NoSuchProcessor"}, {"size": "huge"}])
def test_files_that_cannot_be_used_leave_a_model_of_text(tmp_path: Path, change: dict[str, object]) -> None:
    folder = make_tiny_vision_model(tmp_path)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    found, why = load_processor(folder, AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    assert found is None
    assert why == "It reads text only, because its files for pictures cannot be used here (the log says why)."


TORCHVISION = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision, transformers' own class is used")
@pytest.mark.parametrize("sizes", [((64, 48),), ((200, 30), (30, 200)), ((700, 300), (1, 1))])
def test_pictures_for_mistral_are_those_of_transformers_class(
    sizes: tuple[tuple[int, int], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Seeing(tmp_path, "mistral3").processor.processor
    assert isinstance(ours, PixtralProcessor)
    for name in TORCHVISION:  # the class needs it for its import only
        module = ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["torchvision.transforms.v2"], "functional", ModuleType("functional"), raising=False)
    for name in ("processing_pixtral", "image_processing_pixtral"):
        monkeypatch.delitem(sys.modules, f"transformers.models.pixtral.{name}", raising=False)
    made = import_module("transformers.models.pixtral.processing_pixtral").PixtralProcessor
    tokens = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    real = made(ours.image_processor, ours.tokenizer, patch_size=8, spatial_merge_size=2, **tokens)
    images = [half_red(*size) for size in sizes]
    given = {"text": [f"Look:{'[IMG]' * len(images)} What?"], "images": images, "return_tensors": "pt"}
    found, expected = ours(**given), real(**given)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
