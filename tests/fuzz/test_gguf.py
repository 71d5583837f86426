"""Tests the header reader of GGUF files with any bytes: a header or one sentence, with bounded work."""

import io
import struct
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.models import gguf_header
from bot.models.gguf_header import GgufHeader, read_header
from bot.types.errors import ModelError
from tests.support.builders.gguf_files import write_gguf

HUGE = [2**31, 2**32 - 1, 2**50, 2**62, 2**63 - 1, 2**64 - 1]
WHOLE: dict[str, bytes] = {}


class Counted(io.BytesIO):
    """Counts the calls, and fails on reads that a header does not need."""

    calls = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 <= size <= 11 * gguf_header.MOST_LAYERS
        self.calls += 1
        return super().read(size)


@pytest.fixture(scope="module", autouse=True)
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    WHOLE["gguf"] = write_gguf(tmp_path_factory.mktemp("gguf") / "a.gguf").read_bytes()
    yield
    WHOLE.clear()


def read(content: bytes, size: int | None = None) -> GgufHeader | str:
    """The header, or the sentence of the refusal."""
    stream = Counted(content)
    try:
        found: GgufHeader | str = read_header(stream, len(content) if size is None else size, "a.gguf")
    except ModelError as error:
        found = str(error)
        assert found.startswith("a.gguf ")
        assert "\n" not in found
    assert stream.calls <= len(content) + 10, "no work without bytes for it"
    return found


def text(key: str) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode()


def file(tensors: int, entries: int, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + body


@pytest.mark.fault(44)
@given(st.binary(max_size=400))
def test_any_bytes(content: bytes) -> None:
    assert isinstance(read(content), str)
    read(b"GGUF\3\0\0\0" + content)


@pytest.mark.fault(44)
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=12))
def test_damage_anywhere(at: int, wrong: bytes) -> None:
    good = WHOLE["gguf"]
    read(good[:at] + wrong + good[at + len(wrong) :])


@pytest.mark.fault(44)
@given(st.integers(0, 60_000))
@example(24)
def test_an_end_anywhere(length: int) -> None:
    found = read(WHOLE["gguf"][:length])
    assert isinstance(found, str) or length >= found.file_bytes


@pytest.mark.fault(44)
@pytest.mark.parametrize("huge", HUGE)
def test_huge_counts_end_at_once(huge: int) -> None:
    count = struct.pack("<Q", huge)
    array = struct.pack("<I", 9)
    hostile = [
        file(huge, 0, b""),
        file(0, huge, bytes(1000)),
        file(0, 1, count + bytes(1000)),
        file(0, 1, text("general.architecture") + struct.pack("<I", 8) + count + bytes(1000)),
        *(
            file(0, 1, text("llama.attention.head_count_kv") + array + struct.pack("<I", kind) + count + bytes(1000))
            for kind in (*gguf_header.WIDTHS, gguf_header.STRING, gguf_header.ARRAY, 99)
        ),
        file(1, 0, count + bytes(1000)),
        file(1, 0, text("a") + struct.pack("<IQQ", 2, huge, huge) + bytes(1000)),
        file(1, 0, text("a") + struct.pack("<I", min(huge, 2**32 - 1)) + bytes(1000)),
        file(1, 0, text("a") + struct.pack("<IQIQ", 1, 1, 0, huge)),
        file(0, 1, text("general.alignment") + struct.pack("<IQ", 10, huge)),
    ]
    for content in hostile:
        found = read(content)
        assert isinstance(found, str) or found.parameters == 0, content[:60]


@pytest.mark.fault(44)
def test_nested_arrays_do_not_nest_calls() -> None:
    body = text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000
    assert "an unknown type" in str(read(file(0, 1, body)))


@pytest.mark.fault(44)
def test_strings_without_end_are_limited() -> None:
    """A sparse file can claim any number of empty strings."""
    size = 8 * gguf_header.MOST_STRINGS * 4
    body = text("a") + struct.pack("<IIQ", 9, 8, gguf_header.MOST_STRINGS + 1)
    assert "too many strings" in str(read(file(0, 1, body), size))


def test_a_whole_file_is_read() -> None:
    assert isinstance(read(WHOLE["gguf"]), GgufHeader)
