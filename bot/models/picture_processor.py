"""Turns pictures into the inputs of a model that sees, with transformers' own processor; used in the engine's process.

Only the parts for pictures are loaded: those for video need packages that nothing else here does.
"""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from bot.types.messages import Picture

log = logging.getLogger(__name__)

OWN_FILES = {"local_files_only": True, "trust_remote_code": False}
KINDS = ("mm_token_type_ids", "token_type_ids")
"""Names of the input that tells tokens of pictures from tokens of text."""


class PictureProcessor:
    """The processor of one model. `token_id`: the token that the chat template writes for a picture."""

    def __init__(self, processor: ProcessorMixin) -> None:
        self._processor: Any = processor  # Any: what a processor has depends on its class
        self._token: str = self._processor.image_token
        self.token_id = int(self._processor.tokenizer.convert_tokens_to_ids(self._token))
        self.ids(_sample())  # raises what pictures would raise

    def ids(self, picture: Picture) -> list[int]:
        """The token ids that stand for a picture in a prompt."""
        inputs = self._processor(text=[self._token], images=[_opened(picture)], add_special_tokens=False)
        return list(map(int, inputs["input_ids"][0]))

    def inputs(self, pictures: Sequence[Picture], ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """The model's inputs for the pictures of a prompt, besides its ids; {} for none."""
        if not pictures:
            return {}
        images = [_opened(picture) for picture in pictures]
        made = self._processor(
            text=[self._token * len(images)], images=images, add_special_tokens=False, return_tensors="pt"
        )
        found = {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}
        for name in KINDS:
            if name in found:
                found[name] = torch.tensor(self._processor.create_mm_token_type_ids([list(ids)]))
        return found


def load_processor(
    folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[PictureProcessor | None, str]:
    """Return the processor of a model that sees, or None and, if it could see, why it does not here as a phrase."""
    if not hasattr(config, "vision_config") or type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None, ""
    try:
        made = PROCESSOR_MAPPING[type(config)]
        known, _ = made.get_processor_dict(folder, local_files_only=True)
        pictures = AutoImageProcessor.from_pretrained(folder, **OWN_FILES)
        parts = {"image_processor": pictures, "tokenizer": tokenizer}
        arguments = [parts.get(name) for name in made.get_attributes()]
        return PictureProcessor(_without_missing(made).from_args_and_dict(arguments, known)), ""
    except Exception as error:  # a repository may hold anything
        log.warning("The processor in %s cannot be used: %s", folder, error)
        lines = str(error).strip().splitlines()
        return None, lines[0].rstrip(".") if lines else type(error).__name__


def _without_missing(made: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A subclass of a processor that may lack parts."""

    def check(self: ProcessorMixin, name: str, part: object) -> object:
        return None if part is None else made.check_argument_for_proper_class(self, name, part)

    return type(made.__name__, (made,), {"check_argument_for_proper_class": check})


def _opened(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.data), formats=("PNG", "JPEG")).convert("RGB")


def _sample() -> Picture:
    written = io.BytesIO()
    Image.new("RGB", (64, 48)).save(written, "PNG")
    return Picture("sample.png", "image/png", written.getvalue(), 64, 48)
