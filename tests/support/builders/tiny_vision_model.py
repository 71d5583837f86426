"""Writes tiny random models that see, in the layout of real ones: config, safetensors, tokenizer, template, processor.

`make_tiny_vision_model(directory, kind)` writes one of KINDS. A kind always gets the same weights.
"""

import json
from pathlib import Path
from typing import cast

import torch
from transformers import (
    BaseImageProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessorPil,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.support.builders.tiny_models import make_tokenizer

WINDOW = 2048
KINDS = ("qwen3_vl", "idefics3", "gemma3", "mistral3")
"""Qwen3-VL, SmolVLM's first version, Gemma 3, Ministral 3."""

QWEN3_VL = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS3 = (  # SmolVLM-256M-Instruct's
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
    "{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for message in loop_messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}"
    "{%- else -%}{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
MISTRAL3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] if message['content'] is string"
    " else message['content'][0]['text'] }}{{ eos_token }}"
    "{% else %}{{ '[SYSTEM_PROMPT]' if message['role'] == 'system' else '[INST]' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '[/SYSTEM_PROMPT]' if message['role'] == 'system' else '[/INST]' }}{% endif %}{% endfor %}"
)


def make_tiny_vision_model(directory: Path, kind: str = "qwen3_vl") -> Path:
    """Writes the model into `directory` and returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, tokenizer = MAKERS[kind](directory)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _tokenizer(template: str, tokens: tuple[str, ...], **named: str) -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny models, with more special tokens. named: those that it has as attributes."""
    base = make_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        bos_token=base.bos_token,
        eos_token=base.eos_token,
        pad_token=base.pad_token,
        extra_special_tokens=named,
        chat_template=template,
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
    return tokenizer


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return cast(int, tokenizer.convert_tokens_to_ids(token))


def _text(tokenizer: PreTrainedTokenizerFast, **more: object) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": WINDOW,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _qwen3_vl(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokens = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = _tokenizer(QWEN3_VL, tokens)
    start, end, picture, video = (_id(tokenizer, token) for token in tokens)
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 8,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.3,
        },
        image_token_id=picture,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    _legacy(directory, Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=sizes))
    return Qwen3VLForConditionalGeneration(config), tokenizer


def _idefics3(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    places = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    tokens = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places)
    tokenizer = _tokenizer(IDEFICS3, tokens)
    tokenizer.eos_token = "<end_of_utterance>"
    config = Idefics3Config(
        text_config=_text(tokenizer, model_type="llama"),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "initializer_range": 0.3,
        },
        image_token_id=_id(tokenizer, "<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
    )
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=IDEFICS3).save_pretrained(directory)
    return Idefics3ForConditionalGeneration(config), tokenizer


def _gemma3(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _tokenizer(
        GEMMA3,
        ("<start_of_turn>", "<end_of_turn>"),
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    names = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    start, end, picture = (_id(tokenizer, token) for token in names)
    config = Gemma3Config(
        text_config=_text(tokenizer, sliding_window=64),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        mm_tokens_per_image=4,
        boi_token_index=start,
        eoi_token_index=end,
        image_token_index=picture,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    pictures = Gemma3ImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=4)
    Gemma3Processor(pictures, tokenizer, image_seq_length=4).save_pretrained(directory)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # it begins as zeros
    return model, tokenizer


def _mistral3(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokens = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = _tokenizer(MISTRAL3, tokens)
    config = Mistral3Config(
        text_config=_text(tokenizer, model_type="ministral3", tie_word_embeddings=False),
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "initializer_range": 0.3,
        },
        image_token_index=_id(tokenizer, "[IMG]"),
        spatial_merge_size=2,
    )
    pictures = PixtralImageProcessorPil(patch_size=8, size={"longest_edge": 64}).to_dict()
    named = {"image_processor_type": "PixtralImageProcessorFast", "processor_class": "PixtralProcessor"}
    tokens_of_pictures = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    sizes = {"patch_size": 8, "spatial_merge_size": 2}
    file = {**tokens_of_pictures, **sizes, "image_processor": pictures | named, "processor_class": "PixtralProcessor"}
    (directory / "processor_config.json").write_text(json.dumps(file))
    return Mistral3ForConditionalGeneration(config), tokenizer


MAKERS = {"qwen3_vl": _qwen3_vl, "idefics3": _idefics3, "gemma3": _gemma3, "mistral3": _mistral3}


def _legacy(directory: Path, pictures: BaseImageProcessor) -> None:
    """The file as most repositories have it: with the name of a class that needs torchvision."""
    pictures.save_pretrained(directory)
    file = directory / "preprocessor_config.json"
    file.write_text(file.read_text().replace("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"))
