"""Trains a tiny Qwen3-VL to name the colour of a picture: red, green or blue. Takes some 10 s on two cores."""

import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Qwen3VLForConditionalGeneration

from bot.conversations.conversations import picture_line
from bot.engine.text.prompts import PromptBuilder
from bot.models.picture_processor import PictureProcessor, load_processor
from bot.types.messages import Picture, Prompt, Role, Turn
from tests.support.builders.picture_files import encoded
from tests.support.builders.tiny_vision_model import WINDOW, make_tiny_vision_model

COLOURS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255)}
QUESTION, FILE = "What colour is it?", "photo.png"
SIZES, SHADES = ((60, 40), (40, 60)), 3
STEPS, ENOUGH = 150, 0.03


def make_colour_model(directory: Path) -> Path:
    """Writes the model into `directory` and returns it; it answers QUESTION about FILE."""
    make_tiny_vision_model(directory)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    pictures, why = load_processor(directory, AutoConfig.from_pretrained(directory), tokenizer)
    assert pictures is not None, why
    chance = random.Random(0)
    batches = [_batch(pictures, tokenizer, size, chance) for size in SIZES for _ in range(SHADES)]
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(directory).train()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(0.1)  # it begins far too wide to learn
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        loss = model(**batches[step % len(batches)]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() < ENOUGH:
            break
    model.eval().save_pretrained(directory)
    return directory


def _batch(
    pictures: PictureProcessor, tokenizer: Any, size: tuple[int, int], chance: random.Random
) -> dict[str, torch.Tensor]:
    """The question about a picture of each colour, with its answer: inputs of the model and labels."""
    prompts = PromptBuilder(tokenizer, "", WINDOW, pictures=pictures)
    answers = [[*tokenizer.encode(name, add_special_tokens=False), tokenizer.eos_token_id] for name in COLOURS]
    longest = max(map(len, answers))
    rows: dict[str, list[torch.Tensor]] = {}
    for colour, said in zip(COLOURS.values(), answers, strict=True):
        shade = tuple(min(255, max(0, value + chance.randint(-40, 40))) for value in colour)
        picture = Picture(FILE, "image/png", encoded(Image.new("RGB", size, shade), "PNG"), *size)
        turn = Turn(Role.USER, "", f"{QUESTION}\n\n{picture_line(FILE)}", "1", 0.0, (picture,))
        ids = prompts.build(Prompt("", (turn,)), 10).ids
        padding = longest - len(said)
        whole = [*ids, *said, *[tokenizer.eos_token_id] * padding]
        made = {
            "input_ids": torch.tensor([whole]),
            "attention_mask": torch.tensor([[1] * (len(whole) - padding) + [0] * padding]),
            "labels": torch.tensor([[*[-100] * len(ids), *said, *[-100] * padding]]),
            **pictures.inputs([picture], whole),
        }
        for name, value in made.items():
            rows.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in rows.items()}
