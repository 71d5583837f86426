"""Decodes the text files of a message, with a limit on their size; explains what was skipped or is damaged. Pure.

A file counts as text by its content, not by its name.
"""

import codecs
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from bot.platforms.encodings import detect, is_of_one_script
from bot.platforms.pictures import MAX_PER_MESSAGE
from bot.types.display_names import as_code
from bot.types.messages import Attachment, Picture

MAX_FILES = 5
MAX_BYTES = 200_000

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose BOM is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DAMAGED = "\ufffd"
MAX_DAMAGE = 0.1
"""Share of damaged characters, besides one, above which data counts as binary."""
MAX_CONTROLS = 0.005
"""Share of control characters above which data counts as binary."""
MIN_CHARS = 10
"""In a text of so many characters, one control character is allowed in any case."""
MIN_UTF_16 = 16
"""Bytes; fewer may look like UTF-16 by chance."""
_ISO_2022_JP = re.compile(rb"\x1b\$[@B]")
"""Switches to two-byte characters; the encoding of Japanese mail."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Files:
    """Decoded text files and pictures, and a sentence for each skipped file."""

    texts: tuple[Attachment, ...] = ()
    pictures: tuple[Picture, ...] = ()
    remark: str = ""


def decoded(data: bytes) -> str | None:
    """Decode text in any encoding, with U+FFFD for what is damaged; None if the data is not text.

    It may take 0.1 s, so not on the event loop.
    """
    text = _decoded(data)
    if text is None or not _is_text(text):
        return _utf_16(data)
    return _CONTROLS.sub(DAMAGED, text)


def _is_text(text: str) -> bool:
    controls = len(_CONTROLS.findall(text))
    return text.count(DAMAGED) <= min(MAX_DAMAGE * len(text) + 1, len(text) / 2) and controls <= MAX_CONTROLS * len(
        text
    ) + (len(text) >= MIN_CHARS)


def _utf_16(data: bytes) -> str | None:
    """Decode UTF-16 without a byte order mark that has few ASCII characters; None if it is none."""
    if len(data) < MIN_UTF_16:
        return None
    for encoding in ("utf-16-le", "utf-16-be"):
        with suppress(UnicodeDecodeError):
            text = data[: len(data) // 2 * 2].decode(encoding)
            if is_of_one_script(text) and _is_text(text):
                return text
    return None


def _decoded(data: bytes) -> str | None:
    for mark, marked_encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(marked_encoding, "replace")
    zeros = data[::2].count(0), data[1::2].count(0)
    if max(zeros) > len(data) // 4 and min(zeros) * 4 < max(zeros):
        return data.decode("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le", "replace")
    if _ISO_2022_JP.search(data) and sum(byte > 0x7F for byte in data) <= MAX_DAMAGE * len(data):
        return data.decode("iso2022_jp_2", "replace")
    text = data.decode("utf-8", "replace")
    damaged = text.count(DAMAGED)
    continuations = len(text.encode()) - len(text) - 2 * damaged  # other encodings have such bytes only by chance
    cut = len(data) - codecs.utf_8_decode(data, "replace", False)[1]  # bytes of a character that the end cuts
    if continuations + 2 * max(0, cut - 1) >= 2 * damaged:
        return text
    if encoding := detect(data):
        return data.decode(encoding, "replace")
    if damaged == 1 and cut:
        return text
    with suppress(UnicodeDecodeError):
        return data.decode("cp1252")
    return None


def refusal(name: str, size: int) -> str:
    """Reason to skip a text file before its download, or ''. `size`: bytes."""
    if size > MAX_BYTES:
        return f"{as_code(name)} is larger than the {MAX_BYTES // 1000} kB that I read, so I left it out."
    return ""


def read_as_text(name: str, data: bytes) -> Attachment | str:
    """Decode a downloaded file; returns a sentence if it is not text."""
    text = decoded(data[: MAX_BYTES + 1])
    if text is None:
        return f"{as_code(name)} is not a text file, so I could not read it."
    damaged = text.count(DAMAGED)
    characters = "1 damaged character" if damaged == 1 else f"{damaged} damaged characters"
    return Attachment(name, text, f"{as_code(name)} has {characters}, which I read as {DAMAGED}." if damaged else "")


def gathered(read: Iterable[Attachment | Picture | str], count: int) -> Files:
    """Collect the results of a message with `count` files, each a text, a picture or a sentence."""
    found = list(read)
    pictures = [each for each in found if isinstance(each, Picture)]
    sentences = (
        each.remark if isinstance(each, Attachment) else each for each in found if not isinstance(each, Picture)
    )
    remarks = [sentence for sentence in sentences if sentence]
    if len(pictures) > MAX_PER_MESSAGE:
        remarks.append(f"I look at only the first {MAX_PER_MESSAGE} pictures of a message.")
    if count > MAX_FILES:
        remarks.append(f"I read only the first {MAX_FILES} files of a message.")
    texts = tuple(each for each in found if isinstance(each, Attachment))
    return Files(texts, tuple(pictures[:MAX_PER_MESSAGE]), " ".join(remarks))
