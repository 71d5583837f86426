"""Read the header of GGUF files: what the model is, its shape, and the size of its weights.

Reads metadata and tensor descriptions only, never weights. Each count of the file is checked before anything is read or
allocated by it, and MOST_STRINGS bounds the time, because files come from strangers; the `gguf` package's own reader
has no such limits, and its import takes 60 MB. All failures are ModelError with one sentence.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from bot.models.gguf_names import parts_of
from bot.types.errors import ModelError

MAGIC = b"GGUF"
LFS_POINTER = b"version https://git-lfs"
"""The beginning of the text file that Git holds in place of a file in LFS."""

VERSIONS = (2, 3)
MOST_ENTRIES = 10_000
MOST_TENSORS = 200_000
MOST_STRINGS = 4_000_000
"""Limit of the strings in all arrays of one header; a vocabulary of 262,144 tokens has 800,000 with its merges."""
MOST_KEY_BYTES = 1024
MOST_TEXT_BYTES = 65_536
MOST_TEMPLATE_BYTES = 262_144
"""A longer chat template is not read; the longest known ones have 20,000 characters."""
MOST_LAYERS = 10_000
MOST_DIMENSIONS = 8
MOST_PARAMETERS = 1 << 50
MOST_NUMBER = 10**8
BUFFER_BYTES = 1 << 20
TEXTS = ("general.architecture", "general.name", "tokenizer.ggml.pre")
"""The keys of the texts that are read; others are skipped, except the chat template."""
CHAT_TEMPLATE = "tokenizer.chat_template"

STRING, ARRAY = 8, 9
WIDTHS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The struct format of each scalar type."""

TENSOR_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Weights in a block and bytes of a block, by the number of the tensor type (`gguf.GGML_QUANT_SIZES`)."""

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip
"""Names of `general.file_type` (`gguf.LlamaFileType`)."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The facts of a GGUF file, or of all files of a split model; 0 and '' mean unknown.

    kv_values: values that one token adds to the KV cache. file_bytes: size that the tensors need of the files.
    template: the chat template, '' if it is longer than MOST_TEMPLATE_BYTES.
    """

    architecture: str
    name: str
    file_type: str
    pre_tokenizer: str
    has_template: bool
    parameters: int
    weights_bytes: int
    layers: int
    kv_heads: int
    head_dim: int
    kv_values: int
    context_window: int
    file_bytes: int
    template: str = ""


class _Damaged(Exception):
    """The reason why a header cannot be read; the end of a sentence that begins with the file's name."""


def read_gguf(path: Path) -> GgufHeader:
    """Read the headers of a model: of `path`, and of its other parts if it is the first one of a split model.

    Raises ModelError if a file is missing, damaged or shorter than its tensors.
    """
    headers = []
    for part in parts_of(path):
        try:
            stat = part.stat()
            headers.append(_cached(part, stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            raise ModelError(f"{part} cannot be read: {error.strerror or error}.") from error
    return replace(
        headers[0],
        parameters=sum(header.parameters for header in headers),
        weights_bytes=sum(header.weights_bytes for header in headers),
        file_bytes=sum(header.file_bytes for header in headers),
    )


def is_gguf(path: Path) -> bool:
    """Whether `path` and all other parts of its model are files that begin like GGUF files."""
    try:
        for part in parts_of(path):
            with part.open("rb") as content:
                if content.read(len(MAGIC)) != MAGIC:
                    return False
    except (OSError, ValueError, ModelError):
        return False
    return True


@lru_cache(64)
def _cached(path: Path, size: int, _changed: int) -> GgufHeader:
    with path.open("rb", buffering=BUFFER_BYTES) as content:
        return read_header(content, size, str(path))


def read_header(content: BinaryIO, size: int, name: str) -> GgufHeader:
    """Read the header of one file of `size` bytes. name: for error messages. Raises ModelError."""
    try:
        return _Parser(content, size).header()
    except _Damaged as error:
        raise ModelError(f"{name} {error}.") from error


class _Parser:
    """Reads one header from its beginning."""

    def __init__(self, content: BinaryIO, size: int) -> None:
        self._content, self._size = content, size
        self._at = 0
        self._strings = 0

    def header(self) -> GgufHeader:
        """Parse the whole header. Raises _Damaged."""
        tensors, entries = self._counts()
        facts: dict[str, object] = {}
        for _ in range(entries):
            key = self._text(MOST_KEY_BYTES)
            value = self._value(self._number("I"), key)
            facts.setdefault(key, value)
        parameters, weights, end = self._tensors(tensors, facts)
        if self._size < end:
            raise _Damaged(f"has {self._size:,} bytes instead of {end:,}: fetch it again")
        return _described(facts, parameters, weights if weights >= 0 else self._size - self._at, end)

    def _counts(self) -> tuple[int, int]:
        """The numbers of tensors and of entries."""
        magic = self._content.read(len(LFS_POINTER))
        if magic.startswith(LFS_POINTER):
            raise _Damaged("is a Git LFS pointer, not the model itself: fetch the file, as with `git lfs pull`")
        if not magic.startswith(MAGIC):
            raise _Damaged("is not a GGUF file")
        self._content.seek(len(MAGIC))
        self._at = len(MAGIC)
        version = self._number("I")
        if version not in VERSIONS:
            why = "big-endian" if version & 0xFFFF == 0 else f"version {version} of the format"
            raise _Damaged(f"is a GGUF file that cannot be read ({why}): choose another one")
        tensors, entries = self._number("Q"), self._number("Q")
        if tensors > MOST_TENSORS or entries > MOST_ENTRIES:
            raise _Damaged("has a damaged header (too many entries): fetch it again, or choose another file")
        return tensors, entries

    def _tensors(self, count: int, facts: dict[str, object]) -> tuple[int, int, int]:
        """Parameters, bytes of the weights (-1 if a type is unknown), and the file's size by its tensors."""
        parameters = weights = last = 0
        known = True
        for _ in range(count):
            self._skip_text()
            dimensions = self._number("I")
            if dimensions > MOST_DIMENSIONS:
                raise _Damaged("has a damaged header (a tensor's dimensions): fetch it again")
            elements = 1
            for _ in range(dimensions):
                elements *= self._number("Q")
                if parameters + elements > MOST_PARAMETERS:
                    raise _Damaged("has a damaged header (a tensor's size): fetch it again")
            block, width = TENSOR_TYPES.get(self._number("I"), (0, 0))
            offset = self._number("Q")
            parameters += elements
            known = known and block > 0
            length = -(-elements // block) * width if block else 0
            weights += length
            last = max(last, offset + length)
        alignment = facts.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _Damaged("has a damaged header (its alignment): fetch it again")
        start = -(-self._at // alignment) * alignment
        return parameters, weights if known else -1, start + last if count else self._at

    def _value(self, kind: int, key: str) -> object:
        """Read a value. Of most texts it is only whether they are not empty; arrays are skipped (None), except those of
        numbers that describe layers."""
        if kind in WIDTHS:
            return self._number(WIDTHS[kind])
        if kind == STRING and key == CHAT_TEMPLATE:
            return self._template()
        if kind == STRING:
            return self._text(MOST_TEXT_BYTES) if key in TEXTS else self._skip_text() > 0
        if kind != ARRAY:
            raise _Damaged("has a damaged header (an unknown type): fetch it again, or choose another file")
        kind, count = self._number("I"), self._number("Q")
        if kind == STRING:
            self._skip_texts(count)
            return None
        if kind not in WIDTHS:
            raise _Damaged("has a damaged header (an unknown type): fetch it again, or choose another file")
        width = struct.calcsize("<" + WIDTHS[kind])
        if count <= MOST_LAYERS and ".attention." in key:
            return struct.unpack(f"<{count}{WIDTHS[kind]}", self._take(count * width))
        self._skip(count * width)
        return None

    def _number(self, form: str) -> int:
        found: int = struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]
        return found

    def _text(self, most: int) -> str:
        length = self._number("Q")
        if length > most:
            raise _Damaged("has a damaged header (a text that is too long): fetch it again, or choose another file")
        return self._take(length).decode("utf-8", "replace")

    def _template(self) -> object:
        """The chat template, or whether there is one that is too long."""
        length = self._number("Q")
        if length <= MOST_TEMPLATE_BYTES:
            return self._take(length).decode("utf-8", "replace")
        self._skip(length)
        return True

    def _skip_text(self) -> int:
        length = self._number("Q")
        self._skip(length)
        return length

    def _skip_texts(self, count: int) -> None:
        self._strings += count
        if self._strings > MOST_STRINGS:
            raise _Damaged("has a damaged header (too many strings): fetch it again, or choose another file")
        for _ in range(count):
            self._skip_text()

    def _take(self, length: int) -> bytes:
        found = self._content.read(length) if length <= self._size - self._at else b""
        if len(found) != length:
            raise _Damaged("ends within its header: fetch it again")
        self._at += length
        return found

    def _skip(self, length: int) -> None:
        if length > self._size - self._at:
            raise _Damaged("ends within its header: fetch it again")
        self._content.seek(length, 1)
        self._at += length


def _described(facts: dict[str, object], parameters: int, weights: int, end: int) -> GgufHeader:
    architecture = str(facts.get("general.architecture", ""))

    def numbers(key: str) -> tuple[int, ...]:
        found = facts.get(f"{architecture}.{key}")
        values: Sequence[object] = found if isinstance(found, tuple) else (found,)
        return tuple(min(int(each), MOST_NUMBER) for each in values if isinstance(each, int) and each >= 0)

    def number(key: str) -> int:
        return max(numbers(key), default=0)

    layers = min(number("block_count"), MOST_LAYERS)
    heads = number("attention.head_count")
    by_layer = numbers("attention.head_count_kv") or numbers("attention.head_count") or (0,)
    key = number("attention.key_length") or number("embedding_length") // max(heads, 1)
    value = number("attention.value_length") or key
    all_heads = sum(by_layer[:layers]) if len(by_layer) > 1 else by_layer[0] * layers
    return GgufHeader(
        architecture=architecture,
        name=str(facts.get("general.name", "")),
        file_type=FILE_TYPES.get(_integer(facts.get("general.file_type")), ""),
        pre_tokenizer=str(facts.get("tokenizer.ggml.pre", "")),
        has_template=bool(facts.get(CHAT_TEMPLATE)),
        parameters=parameters,
        weights_bytes=weights,
        layers=layers,
        kv_heads=max(by_layer),
        head_dim=key,
        kv_values=all_heads * (key + value),
        context_window=number("context_length"),
        file_bytes=end,
        template=template if isinstance(template := facts.get(CHAT_TEMPLATE), str) else "",
    )


def _integer(value: object) -> int:
    return value if isinstance(value, int) else -1
