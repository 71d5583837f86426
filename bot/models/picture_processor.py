"""Turns pictures into the inputs of a model that sees, with transformers' own processor; used in the engine's process.

Only the parts for pictures are loaded: those for video need packages that nothing else here does.
"""

import hashlib
import io
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available

from bot.models.model_directory import sees
from bot.models.pixtral_processor import PixtralProcessor
from bot.types.messages import Picture, PictureTokens

log = logging.getLogger(__name__)

OWN_FILES = {"local_files_only": True, "trust_remote_code": False}
KINDS = ("mm_token_type_ids", "token_type_ids")
"""Names of the input that tells tokens of pictures from tokens of text."""
CPU_SIDE = 768
"""Longest side, in pixels, of the pictures that a CPU computes: one of 1,568 pixels takes a model of 4 billion weights
minutes, and half a gigabyte of memory."""
CACHED = 64
"""Pictures whose tokens are kept, since each turn counts those of the history again."""


class PictureProcessor:
    """The processor of one model. `token`: what the chat template writes for a picture.

    side: larger pictures are scaled down to so many pixels; 0 for none.

    Raises ValueError, or whatever the processor raises, if it cannot be used.
    """

    def __init__(self, processor: Any, side: int = 0) -> None:  # Any: what a processor has depends on its class
        self.processor, self._side = processor, side
        tokenizer: PreTrainedTokenizerBase = self.processor.tokenizer
        self.token: str = self.processor.image_token
        control = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        self._control_ids = frozenset(control.values())
        if self.token not in control:
            raise ValueError(f"the tokenizer does not have {self.token} as a special token")
        self.token_id = control[self.token]
        self._cache = OrderedDict[bytes, PictureTokens]()
        self._check(_sample())

    def tokens(self, picture: Picture) -> PictureTokens:
        """What stands for a picture in a prompt instead of `token`."""
        key = hashlib.sha256(picture.data).digest()
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._made(picture)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return found

    def inputs(self, pictures: Sequence[Picture], ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """The model's inputs for the pictures of a prompt, besides its ids; {} for none."""
        if not pictures:
            return {}
        found = self._inputs(self.token * len(pictures), pictures)
        for name in KINDS:
            if name in found:
                found[name] = torch.tensor(self.processor.create_mm_token_type_ids([list(ids)]))
        return found

    def _made(self, picture: Picture) -> PictureTokens:
        made = self.processor(text=[self.token], images=[self._opened(picture)], add_special_tokens=False)
        ids = list(map(int, made["input_ids"][0]))
        at = [index for index, each in enumerate(ids) if each in self._control_ids]
        if not at:
            raise ValueError("the processor writes no token for a picture")
        first, end = at[0], at[-1] + 1
        before, after = (self.processor.tokenizer.decode(part) for part in (ids[:first], ids[end:]))
        return PictureTokens(before, tuple(ids[first:end]), after)

    def _inputs(self, text: str, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        images = [self._opened(picture) for picture in pictures]
        made = self.processor(text=[text], images=images, add_special_tokens=False, return_tensors="pt")
        return {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}

    def _opened(self, picture: Picture) -> Image.Image:
        image = Image.open(io.BytesIO(picture.data), formats=("PNG", "JPEG")).convert("RGB")
        if self._side:
            image.thumbnail((self._side, self._side))
        return image

    def _check(self, picture: Picture) -> None:
        """Raise what pictures would raise, or ValueError if an input depends on the text around a picture."""
        alone = self.inputs([picture], self.tokens(picture).ids)
        within = self._inputs(f"Look: {self.token} What?", [picture])
        for name in (alone.keys() | within.keys()).difference(KINDS):
            if name not in alone or name not in within or not torch.equal(alone[name], within[name]):
                raise ValueError(f"the processor's {name} depends on the text around a picture")


def load_processor(
    folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, side: int = 0
) -> tuple[PictureProcessor | None, str]:
    """Return the processor of a model that sees, or None and, if it could see, why it does not here as a sentence."""
    if not hasattr(config, "vision_config") or type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None, ""
    if not sees(folder):
        return None, "It reads text only, because its files for pictures (preprocessor_config.json) are not here."
    try:
        made: Any = PROCESSOR_MAPPING[type(config)]  # its annotations omit that it is a class of processors
        if made.__name__ == PixtralProcessor.__name__ and not is_torchvision_available():
            made = PixtralProcessor
        known, _ = made.get_processor_dict(folder, local_files_only=True)
        pictures = AutoImageProcessor.from_pretrained(folder, **OWN_FILES)
        parts = {"image_processor": pictures, "tokenizer": tokenizer}
        arguments = [parts.get(name) for name in made.get_attributes()]
        return PictureProcessor(_without_missing(made).from_args_and_dict(arguments, known), side), ""
    except Exception as error:  # a repository may hold anything, and some processors need packages that are not here
        log.warning("The processor in %s cannot be used: %s", folder, error)
        return None, "It reads text only, because its files for pictures cannot be used here (the log says why)."


def _without_missing(made: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A subclass of a processor that may lack parts."""

    def check(self: ProcessorMixin, name: str, part: object) -> object:
        return None if part is None else made.check_argument_for_proper_class(self, name, part)

    return type(made.__name__, (made,), {"check_argument_for_proper_class": check})


def _sample() -> Picture:
    written = io.BytesIO()
    Image.frombytes("RGB", (64, 48), bytes(range(256)) * 36).save(written, "PNG")
    return Picture("sample.png", "image/png", written.getvalue(), 64, 48)
