"""The processor of Mistral's models that see, without torchvision.

transformers' PixtralProcessor needs torchvision by its imports only. A torchvision of another index than torch's makes
transformers unusable, so nobody has to install it: this does the same.
"""

from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor


class PixtralProcessor(ProcessorMixin):
    """Makes the same tokens and inputs as transformers' class of this name."""

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **_: Any,  # of a repository's file
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self._patch = patch_size * spatial_merge_size
        self.image_token, self._row_end, self._end = image_token, image_break_token, image_end_token
        names = [image_token, image_break_token, image_end_token]
        self.image_token_ids: list[Any] = [tokenizer.convert_tokens_to_ids(name) for name in names]
        self.image_token_id = self.image_token_ids[0]

    def _process_images(self, images: Any, **kwargs: Any) -> Any:
        return super()._process_images(images, **{**kwargs, "patch_size": self._patch})

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """The tokens of a picture: rows of its patches."""
        height, width = (int(side) // self._patch for side in image_inputs["image_sizes"][image_idx])
        return self._row_end.join([self.image_token * width] * height) + self._end
