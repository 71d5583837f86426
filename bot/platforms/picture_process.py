"""Re-encodes one picture: `python -I picture_process.py LIMIT...`, run by `bot.platforms.pictures`.

Reads a file from stdin; writes a line of JSON to stdout, {width, height} or {refused: reason}, and the new picture
after it. Imports Pillow and none of our modules. Time and memory are limited where the system supports it: decoders are
written in C, and a file may be made to break them.
"""

import io
import json
import sys
import warnings
from typing import Any, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
QUALITIES = (90, 80, 60, 40)


class PictureLimits(NamedTuple):
    """Arguments of the process. pixels, aspect: of the file. side: of the new picture, in pixels; size: in bytes."""

    seconds: int
    memory_mb: int
    pixels: int
    aspect: int
    side: int
    size: int


class PictureRefused(Exception):
    """The file is not re-encoded; the text is the reason by name."""


def reencoded(data: bytes, limits: PictureLimits) -> tuple[bytes, int, int]:
    """Return a PNG or JPEG within the limits without metadata, its width and its height.

    Only the first frame is decoded; it is turned as the file says. Raises PictureRefused.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureRefused("unknown") from error
    except Image.DecompressionBombError as error:
        raise PictureRefused("pixels") from error
    _check_size(picture, limits)
    lossless = picture.format in ("PNG", "GIF")
    picture.draft("RGB", (limits.side, limits.side))  # a JPEG is decoded at a fraction of its size then
    picture.load()
    _check_size(picture, limits)
    plain = _turned(_as_rgb(picture))
    plain.thumbnail((limits.side, limits.side))
    encoded = _as_png(plain) if lossless else b""
    while not 0 < len(encoded) <= limits.size:
        for quality in QUALITIES:
            encoded = _as_jpeg(plain, quality)
            if len(encoded) <= limits.size:
                break
        else:
            plain = plain.reduce(2)
    return encoded, plain.width, plain.height


def _check_size(picture: Image.Image, limits: PictureLimits) -> None:
    short, long = sorted(picture.size)
    if short * long > limits.pixels:
        raise PictureRefused("pixels")
    if short < 1 or long > short * limits.aspect:
        raise PictureRefused("shape")


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Return the picture in 8-bit grey or RGB, on white where it is transparent. Keeps the rotation in its metadata."""
    exif = picture.getexif() if hasattr(picture, "getexif") else None
    if picture.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        plain = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    elif picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        plain = Image.new("RGB", picture.size, "white")
        plain.paste(layer, mask=layer.getchannel("A"))
    else:
        plain = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    clean = Image.new(plain.mode, plain.size)  # without info: comments and profiles would be written again
    clean.paste(plain)
    if exif:
        clean.getexif()[ORIENTATION] = exif.get(ORIENTATION, 1)
    return clean


ORIENTATION = 0x0112


def _turned(picture: Image.Image) -> Image.Image:
    turned = ImageOps.exif_transpose(picture)
    turned.info.clear()
    return turned


def _as_png(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def _as_jpeg(picture: Image.Image, quality: int) -> bytes:
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=quality)
    return written.getvalue()


def _restrict(most: PictureLimits) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    limits: tuple[tuple[int, int], ...] = (
        (resource.RLIMIT_AS, most.memory_mb << 20),
        (resource.RLIMIT_CPU, most.seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, value in limits:
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):  # not permitted, or already lower
            continue


def main() -> None:
    """Re-encode one picture."""
    limits = PictureLimits(*map(int, sys.argv[1:]))
    data = sys.stdin.buffer.read()
    _restrict(limits)
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = limits.pixels
    encoded, answer = b"", dict[str, Any]()
    try:
        encoded, width, height = reencoded(data, limits)
        answer = {"width": width, "height": height}
    except PictureRefused as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"refused": "pixels"}
    except Exception:  # decoders raise many kinds
        answer = {"refused": "damaged"}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + encoded)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
