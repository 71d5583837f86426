"""Tests that pictures are re-encoded within limits, upright and without metadata; other files get a sentence."""

import io
from collections.abc import Callable

import pytest
from PIL import Image

from bot.platforms.pictures import MAX_ENCODED, MAX_PICTURE_BYTES, PictureReader, is_picture, picture_refusal
from bot.types.messages import Picture
from tests.support.builders.picture_files import animated, bomb, encoded, half_red, noise, phone_photo, stripe


async def read(data: bytes, reader: PictureReader | None = None) -> Picture | str:
    async def fetch() -> bytes:
        return data

    return await (reader or PictureReader()).read("a.png", fetch)


async def picture(data: bytes) -> tuple[Picture, Image.Image]:
    """What is kept of a file, and its pixels."""
    found = await read(data)
    assert isinstance(found, Picture), found
    assert len(found.data) <= MAX_ENCODED
    shown = Image.open(io.BytesIO(found.data))
    assert shown.size == (found.width, found.height)
    assert found.kind == f"image/{str(shown.format).lower()}"
    return found, shown.convert("RGB")


def is_red(image: Image.Image, place: tuple[int, int]) -> bool:
    red, green, blue = image.getpixel(place)  # type: ignore[misc]  # three, as it is RGB
    return red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_each_format_is_read(kind: str) -> None:
    _, image = await picture(encoded(half_red(), kind))
    assert image.size == (60, 40)
    assert is_red(image, (10, 20))
    assert not is_red(image, (50, 20))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
async def test_only_the_first_frame_is_kept(kind: str) -> None:
    found, image = await picture(animated(kind))
    assert is_red(image, (10, 10))
    assert getattr(Image.open(io.BytesIO(found.data)), "n_frames", 1) == 1


@pytest.mark.parametrize(("orientation", "place"), [(1, (5, 20)), (3, (55, 20)), (6, (20, 5)), (8, (20, 55))])
async def test_a_phone_s_photo_is_turned_and_loses_its_metadata(orientation: int, place: tuple[int, int]) -> None:
    photo = phone_photo(orientation)
    assert b"SECRET PLACE" in photo
    found, image = await picture(photo)
    assert image.size == ((60, 40) if orientation in (1, 3) else (40, 60))
    assert is_red(image, place)
    assert b"SECRET" not in found.data
    assert not Image.open(io.BytesIO(found.data)).getexif()


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")]
)
async def test_other_colour_modes_are_converted(mode: str, kind: str) -> None:
    _, image = await picture(encoded(half_red().convert(mode), kind))
    assert is_red(image, (10, 20)) or mode in ("L", "1", "LA")


async def test_sixteen_bits_are_scaled_not_cut() -> None:
    grey = Image.new("I;16", (20, 20), 0x4000)
    _, image = await picture(encoded(grey, "PNG"))
    assert image.getpixel((5, 5)) == (0x40, 0x40, 0x40)


async def test_transparent_parts_are_white() -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    palette = Image.new("P", (20, 20), 0)
    for data in (
        encoded(clear, "PNG"),
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "GIF", transparency=0),
    ):
        _, image = await picture(data)
        assert image.getpixel((5, 5)) == (255, 255, 255)


async def test_a_large_picture_is_scaled_down_and_fits() -> None:
    found, image = await picture(encoded(noise(2100, 1400), "PNG"))
    assert image.size == (1568, 1045)
    assert found.kind == "image/jpeg"  # as a PNG it would take 5 MB


@pytest.mark.fault(61)
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: bomb(), "`a.png` has more than the 40 million pixels that I look at, so I left it out."),
        (lambda: bomb("GIF"), "`a.png` has more than the 40 million pixels that I look at, so I left it out."),
        (lambda: stripe(), "`a.png` is more than 50 times as long as it is wide, so I left it out."),
        (lambda: encoded(half_red(), "JPEG")[:-200], "`a.png` is damaged, so I left it out."),
        (lambda: encoded(half_red(), "PNG")[:60], "`a.png` is damaged, so I left it out."),
        (lambda: encoded(half_red(), "TIFF"), "`a.png` is not a PNG, JPEG, WebP or GIF picture, so I left it out."),
        (lambda: encoded(half_red(), "BMP"), "`a.png` is not a PNG, JPEG, WebP or GIF picture, so I left it out."),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "`a.png` is not a PNG, JPEG, WebP or GIF picture, so I left it out."),
        (lambda: b"<svg/>", "`a.png` is not a PNG, JPEG, WebP or GIF picture, so I left it out."),
        (lambda: b"", "`a.png` is not a PNG, JPEG, WebP or GIF picture, so I left it out."),
        (
            lambda: bytes(MAX_PICTURE_BYTES + 1),
            "`a.png` is larger than the 10 MB of a picture that I look at, so I left it out.",
        ),
    ],
)
async def test_what_is_not_read_gets_one_sentence(make: Callable[[], bytes], sentence: str) -> None:
    assert await read(make()) == sentence


@pytest.mark.fault(61)
async def test_what_follows_the_picture_is_dropped() -> None:
    found, _ = await picture(encoded(half_red(), "PNG") + b"PK\x03\x04 SECRET")
    assert b"SECRET" not in found.data


@pytest.mark.fault(61)
async def test_a_child_that_runs_out_of_memory_costs_the_picture() -> None:
    found = await read(encoded(noise(3000, 2000), "PNG"), PictureReader(memory_mb=60))
    assert isinstance(found, str)
    assert found.startswith("`a.png` ")


async def test_a_failed_download_is_its_sentence() -> None:
    async def fetch() -> str:
        return "It could not be fetched."

    assert await PictureReader().read("a.png", fetch) == "It could not be fetched."


def test_pictures_are_known_by_their_type_or_by_their_name() -> None:
    assert is_picture("a", "image/png")
    assert is_picture("a.heic", "image/heic")
    assert is_picture("A.JPG", "")
    assert not is_picture("logo.svg", "image/svg+xml")
    assert not is_picture("notes.txt", "")
    assert not is_picture("a.png", "text/plain")
    assert picture_refusal("a.png", MAX_PICTURE_BYTES) == ""
