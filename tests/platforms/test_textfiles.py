"""Tests which files are text, and the message for those that are not."""

import pytest

from bot.platforms.textfiles import MAX_BYTES, MAX_FILES, Files, decoded, gathered, read_as_text, refusal
from bot.types.messages import Attachment, Picture


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("grüße 🙂".encode(), "grüße 🙂"),
        ("grüße".encode("utf-8-sig"), "grüße"),
        ("grüße".encode("utf-16"), "grüße"),
        ("grüße".encode("utf-32"), "grüße"),
        ("grüße".encode("cp1252"), "grüße"),
        (b"a\r\n\tb\f\x1b[1m", "a\r\n\tb\f\x1b[1m"),
        (b"", ""),
        (b"\x89PNG\r\n\x1a\n\x00\x00", None),
        (b"%PDF-1.7\n\x01\x02", None),
        (b"\xff\xfe\x00", None),
        (b"\xef\xbb\xbf\x00\x01", None),
        ("\x00a".encode("utf-16"), None),
        (bytes([0x81, 0x8D, 0x41]), None),
    ],
)
def test_a_file_is_text_if_its_content_is(data: bytes, text: str | None) -> None:
    assert decoded(data) == text


def test_what_is_not_read_is_reported_in_a_sentence() -> None:
    assert refusal("huge.log", MAX_BYTES) == ""
    assert "larger than the 200 kB" in refusal("huge.log", MAX_BYTES + 1)
    assert read_as_text("a.txt", b"hi") == Attachment("a.txt", "hi")
    assert read_as_text("a.pdf", b"%PDF\x00") == "`a.pdf` is not a text file, so I could not read it."


def test_the_files_of_a_message_are_gathered_with_their_remarks() -> None:
    text = Attachment("a.txt", "hi")
    assert gathered([], 0) == Files()
    assert gathered(["No.", text, "Neither."], 3) == Files((text,), (), "No. Neither.")
    picture = Picture("a.png", "image/png", b"", 1, 1)
    assert gathered([picture] * 5, 5) == Files((), (picture,) * 4, "I look at only the first 4 pictures of a message.")
    assert gathered([text], MAX_FILES + 1).remark == "I read only the first 5 files of a message."
