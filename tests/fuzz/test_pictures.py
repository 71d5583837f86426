"""Tests picture files with any content: a small new picture, or one of the known reasons."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bot.platforms.picture_process import PictureLimits, PictureRefused, reencoded
from bot.platforms.pictures import PictureReader
from bot.types.messages import Picture
from tests.support.builders.picture_files import animated, encoded, half_red, phone_photo

LIMITS = PictureLimits(seconds=5, memory_mb=500, pixels=100_000, aspect=50, side=32, size=2000)
SEEDS = (
    *(encoded(half_red(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")),
    encoded(half_red().convert("P"), "PNG", transparency=0),
    phone_photo(6),
    animated("GIF"),
    animated("WEBP"),
)
CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=5)


def damaged(data: bytes, changes: list[tuple[int, bytes]], cut: int) -> bytes:
    """A file with some bytes replaced, and without its end."""
    changed = bytearray(data)
    for place, new in changes:
        changed[place : place + len(new)] = new
    return bytes(changed[: len(changed) - cut])


@pytest.mark.fault(61)
@given(st.sampled_from(SEEDS), CHANGES, st.integers(0, 400))
def test_a_damaged_file_is_a_picture_within_the_limits_or_an_error(
    data: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    try:
        made, width, height = reencoded(damaged(data, changes, cut), LIMITS)
    except Exception:  # the child reports all of them; what counts is what is returned
        return
    assert len(made) <= LIMITS.size
    assert max(width, height) <= LIMITS.side
    shown = Image.open(io.BytesIO(made), formats=("PNG", "JPEG"))
    shown.load()
    assert shown.size == (width, height)


@pytest.mark.fault(61)
@given(st.binary(max_size=500))
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureRefused, match="unknown"):
        reencoded(data, LIMITS)


@pytest.mark.fault(61)
@pytest.mark.parametrize("seed", SEEDS, ids=range(len(SEEDS)))
async def test_the_child_answers_for_damaged_files(seed: bytes) -> None:
    async def fetch() -> bytes:
        return damaged(seed, [(len(seed) // 2, b"\xff\0\xff\0")], 1)

    found = await PictureReader().read("a\nb.png", fetch)
    assert isinstance(found, Picture) or found.startswith("`a b.png` ")
