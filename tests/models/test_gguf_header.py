"""Tests the facts that are read from GGUF files, against the files and tables of the `gguf` library."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from bot.models.gguf_header import FILE_TYPES, TENSOR_TYPES, is_gguf, read_gguf
from bot.types.errors import ModelError
from tests.support.builders.gguf_files import (
    HEAD_DIM,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    TOKENS,
    WINDOW,
    add_facts,
    close,
    write_gguf,
    write_split,
)

EMBEDDINGS, MATRIX = TOKENS * HIDDEN, HIDDEN * HIDDEN
ONE_FILE = EMBEDDINGS * 2 + MATRIX // 32 * 34


def test_the_tables_are_the_librarys() -> None:
    assert {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()} == TENSOR_TYPES
    names = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {number: name for number, name in names.items() if name != "GUESSED"} == FILE_TYPES


def test_facts_and_sizes(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    header = read_gguf(file)
    assert (header.architecture, header.name, header.file_type) == ("llama", "Tiny", "Q8_0")
    assert (header.layers, header.kv_heads, header.head_dim, header.context_window) == (
        LAYERS,
        KV_HEADS,
        HEAD_DIM,
        WINDOW,
    )
    assert header.kv_values == 2 * LAYERS * KV_HEADS * HEAD_DIM
    assert header.has_template
    assert header.pre_tokenizer == "smollm"
    assert header.parameters == EMBEDDINGS + MATRIX
    assert header.weights_bytes == ONE_FILE
    assert 0 <= file.stat().st_size - header.file_bytes < 32, "the file ends with its last tensor and padding"


def test_a_model_of_several_files_counts_all_of_them(tmp_path: Path) -> None:
    first, *others = write_split(tmp_path / "tiny", 3)
    header = read_gguf(first)
    assert header.weights_bytes == 3 * ONE_FILE
    assert header.context_window == WINDOW
    assert is_gguf(first)
    os.truncate(others[1], 100)
    with pytest.raises(ModelError, match=r"00003-of-00003\.gguf ends within its header"):
        read_gguf(first)
    others[1].unlink()
    assert not is_gguf(first)
    with pytest.raises(ModelError, match=r"00003-of-00003\.gguf cannot be read: No such file"):
        read_gguf(first)


def test_a_file_without_a_template_or_facts(tmp_path: Path) -> None:
    assert not read_gguf(write_gguf(tmp_path / "a.gguf", template="")).has_template
    header = read_gguf(write_gguf(tmp_path / "b.gguf", facts=False))
    assert (header.layers, header.kv_values, header.context_window, header.file_type) == (0, 0, 0, "")
    assert header.weights_bytes == ONE_FILE


def test_layers_without_attention_take_no_cache(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "hybrid.gguf", "llama")
    writer.add_block_count(4)
    writer.add_head_count(8)
    writer.add_head_count_kv([0, 2, 0, 4])
    writer.add_key_length(64)
    writer.add_value_length(32)
    writer.add_tensor("a", np.zeros(4, np.float32))
    close(writer)
    header = read_gguf(tmp_path / "hybrid.gguf")
    assert (header.layers, header.kv_heads, header.kv_values) == (4, 4, 6 * (64 + 32))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    read_gguf(file)
    write_gguf(tmp_path / "b.gguf", template="")
    (tmp_path / "b.gguf").replace(file)
    assert not read_gguf(file).has_template


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a GGUF file"),
        (b"PK\3\4 and so on", "is not a GGUF file"),
        (b"GGUF", "ends within its header: fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        (b"GGUF\1\0\0\0" + bytes(40), r"cannot be read \(version 1 of the format\)"),
        (b"GGUF\0\0\0\3" + bytes(40), r"cannot be read \(big-endian\)"),
        (b"GGUF\3\0\0\0" + b"\xff" * 40, "too many entries"),
    ],
)
def test_what_is_no_model_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        read_gguf(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_lacks_its_end_names_both_sizes(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    needed = read_gguf(file).file_bytes
    os.truncate(file, needed - 1)
    with pytest.raises(ModelError, match=f"has {needed - 1:,} bytes instead of {needed:,}: fetch it again"):
        read_gguf(file)


def test_a_new_type_of_tensor_is_counted_by_the_files_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    known = read_gguf(file)
    copied = Path(shutil.copy(file, tmp_path / "b.gguf"))
    monkeypatch.delitem(TENSOR_TYPES, 8)
    unknown = read_gguf(copied)
    assert unknown.parameters == known.parameters
    assert 0 <= unknown.weights_bytes - known.weights_bytes < 64
    assert replace(unknown, weights_bytes=0, file_bytes=0) == replace(known, weights_bytes=0, file_bytes=0)


def test_another_alignment(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    add_facts(writer)
    writer.add_uint32("general.alignment", 64)
    writer.add_custom_alignment(64)
    writer.add_tensor("a", np.zeros(3, np.float32))
    close(writer)
    assert read_gguf(tmp_path / "odd.gguf").weights_bytes == 12
