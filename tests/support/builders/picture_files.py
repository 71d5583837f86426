"""Picture files of known content, and files that imitate them."""

import io
import random
import struct
import zlib

from PIL import Image

ORIENTATION, DESCRIPTION = 0x0112, 0x010E


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file of a picture in a format of Pillow."""
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def half_red(width: int = 60, height: int = 40) -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    return image


def noise(width: int, height: int) -> Image.Image:
    """A picture of random pixels, which no format makes small."""
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(3 * width * height))


def phone_photo(orientation: int) -> bytes:
    """A JPEG as phones write it: turned by its metadata, with a place and a comment."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[DESCRIPTION] = orientation, "SECRET PLACE"
    return encoded(half_red(), "JPEG", exif=exif, comment=b"SECRET COMMENT")


def animated(kind: str) -> bytes:
    """A picture of a red, then a blue frame."""
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def bomb(kind: str = "PNG") -> bytes:
    """A small file of 100 million pixels and more."""
    if kind == "GIF":
        return (
            b"GIF89a" + struct.pack("<HH", 20_000, 20_000) + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
        )
    rows = zlib.compress(bytes(10_001) * 10_000, 9)
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def stripe() -> bytes:
    """A picture of one row."""
    return encoded(Image.new("RGB", (5000, 1)), "PNG")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
