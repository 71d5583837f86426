"""Decodes the files of a message to text, with a limit on their size, and explains which files were skipped. Pure.

A file counts as text by its content, not by its name.
"""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bot.types.display_names import as_code
from bot.types.messages import Attachment

MAX_FILES = 5
MAX_BYTES = 200_000

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose BOM is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Files:
    """Decoded files, and a sentence for each skipped file."""

    texts: tuple[Attachment, ...] = ()
    remark: str = ""


def decoded(data: bytes) -> str | None:
    """Decode UTF-8, UTF-16 and UTF-32 with a BOM, or Windows-1252; None if the data is not text."""
    try:
        text = _decoded(data)
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.search(text) else text


def _decoded(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def refusal(name: str, kind: str, size: int) -> str:
    """Reason to skip a file before its download, or ''. `kind`: media type, `size`: bytes."""
    if kind.startswith("image/") and "svg" not in kind:
        return f"I cannot see images, so I left out {as_code(name)}."
    if size > MAX_BYTES:
        return f"{as_code(name)} is larger than the {MAX_BYTES // 1000} kB that I read, so I left it out."
    return ""


def read_as_text(name: str, data: bytes) -> Attachment | str:
    """Decode a downloaded file; returns a sentence if it is not text."""
    text = decoded(data[: MAX_BYTES + 1])
    return f"{as_code(name)} is not a text file, so I could not read it." if text is None else Attachment(name, text)


def gathered(read: Iterable[Attachment | str], count: int) -> Files:
    """Collect the results of a message with `count` files, each an attachment or a sentence."""
    found = list(read)
    remarks = [each for each in found if isinstance(each, str)]
    if count > MAX_FILES:
        remarks.append(f"I read only the first {MAX_FILES} files of a message.")
    return Files(tuple(each for each in found if isinstance(each, Attachment)), " ".join(remarks))
