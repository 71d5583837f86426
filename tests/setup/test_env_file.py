"""Tests editing `.env`: values read back, everything else kept, modes, backups, and no secret in the difference."""

import errno
import io
import os
import stat
import sys
from datetime import datetime
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import example, given
from hypothesis import strategies as st

from bot.setup.env_file import EnvFile, quoted
from bot.types.errors import ConfigError, StorageError

NOW = datetime(2026, 11, 29, 12, 3, 1)
PRINTABLE = st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")) | st.sampled_from(" '\"\\${}#=:-`"))


@given(value=PRINTABLE)
@example(value="ends with \\")
@example(value="${HOME} $${X:-y} ${:-$}")
@example(value="'quoted' # no comment")
def test_every_printable_value_is_read_back(value: str) -> None:
    text = f"BEFORE=1\nNAME={quoted(value)}\nAFTER='it''s'\n"
    assert dotenv_values(stream=io.StringIO(text))["NAME"] == value


LINES = st.sampled_from(
    [
        "# a comment",
        "#INHOUSE_MODEL=smollm2",
        "INHOUSE_MODEL=phi-4 # the large one",
        "export DISCORD_BOT_TOKEN='old one'",
        "inhouse_model=phi-2",
        "OTHER='a\nb'  # two lines",
        'OTHER_TOO="x\\n"',
        "",
        "   ",
        "not an assignment",
        "lonely",
        "EMPTY=",
        "DISCORD_BOT_TOKEN = spaced",
    ]
)


@given(lines=st.lists(LINES), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), token=PRINTABLE.filter(bool))
def test_wanted_values_are_set_and_everything_else_is_kept(lines: list[str], end: str, last: bool, token: str) -> None:
    text = end.join(lines) + (end if last else "")
    wanted = {"INHOUSE_MODEL": "qwen3-1.7b", "DISCORD_BOT_TOKEN": token}
    file = EnvFile(Path(".env"), text)
    edited = file.edited(wanted)
    assert EnvFile(Path(".env"), edited).changes(wanted) == []
    kept = [line for line in lines if line.strip() and "=" not in line.partition("#")[0]]
    for line in kept:
        assert edited.count(line) >= lines.count(line)
    assert edited.count("# the large one") == (1 if "INHOUSE_MODEL=phi-4 # the large one" in _last_model(lines) else 0)
    assert EnvFile(Path(".env"), edited).edited(wanted) == edited, "a second time changes nothing"


def _last_model(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line.upper().startswith("INHOUSE_MODEL=")), "")


def test_a_value_goes_below_the_comment_that_documents_it() -> None:
    file = EnvFile(Path(".env"), "# Model\n#INHOUSE_MODEL=smollm2\n\n# Device\n#INHOUSE_DEVICE=auto")
    edited = file.edited({"INHOUSE_MODEL": "phi-4", "INHOUSE_DEVICE": "cpu", "NEW": "1"})
    model = "# Model\n#INHOUSE_MODEL=smollm2\nINHOUSE_MODEL=phi-4\n"
    assert edited == f"{model}\n# Device\n#INHOUSE_DEVICE=auto\nINHOUSE_DEVICE=cpu\nNEW=1\n"


def test_a_byte_order_mark_and_windows_line_ends_stay() -> None:
    edited = EnvFile(Path(".env"), "\ufeffA=1\r\n").edited({"INHOUSE_MODEL": "phi-4"})
    assert edited == "\ufeffA=1\r\nINHOUSE_MODEL=phi-4\r\n"


def test_a_broken_line_that_would_swallow_the_value_is_refused() -> None:
    file = EnvFile(Path(".env"), "OTHER='never closed\nMORE=1\n")
    with pytest.raises(ConfigError, match="a quote that is not closed"):
        file.edited({"DISCORD_BOT_TOKEN": "it's"})


def test_control_characters_are_refused() -> None:
    with pytest.raises(ConfigError, match="control characters"):
        EnvFile(Path(".env"), None).edited({"INHOUSE_MODEL": "a\nINHOUSE_ADMINS=discord:1"})


def test_the_difference_shows_no_token() -> None:
    file = EnvFile(Path(".env"), "DISCORD_BOT_TOKEN=old-secret\nINHOUSE_MODEL=phi-2\n")
    changes = file.changes({"DISCORD_BOT_TOKEN": "new-secret", "INHOUSE_MODEL": "phi-4"})
    assert [line for change in changes for line in change.lines()] == [
        "- DISCORD_BOT_TOKEN=(hidden)",
        "+ DISCORD_BOT_TOKEN=(hidden, 10 characters)",
        "- INHOUSE_MODEL=phi-2",
        "+ INHOUSE_MODEL=phi-4",
    ]


def test_it_is_replaced_with_a_backup_and_only_its_owner_reads_both(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert EnvFile.read(path).save("A=1\n", NOW) is None
    path.chmod(0o644)
    backup = EnvFile.read(path).save("A=2\n", NOW)
    assert backup == tmp_path / ".env.bak-2026-11-29-120301"
    again = EnvFile.read(path).save("A=3\n", NOW)
    assert again == tmp_path / ".env.bak-2026-11-29-120301-1"
    assert [each.read_text() for each in (path, backup, again)] == ["A=3\n", "A=1\n", "A=2\n"]
    if sys.platform != "win32":
        assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_change_by_another_program_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    read = EnvFile.read(path)
    path.write_text("A=theirs\n")
    with pytest.raises(ConfigError, match="changed by another program"):
        read.save("A=ours\n", NOW)
    assert path.read_text() == "A=theirs\n"


def test_a_full_disk_leaves_the_file_and_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        EnvFile.read(path).save("A=2\n", NOW)
    assert [each.name for each in tmp_path.iterdir()] == [".env"]
    assert path.read_text() == "A=1\n"


def test_an_interrupt_in_the_middle_leaves_the_file_and_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    read, rename = EnvFile.read(path), Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read.save("A=2\n", NOW)
    assert [each.name for each in tmp_path.iterdir()] == [".env"]
    assert path.read_text() == "A=1\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("A=1\n")
    (tmp_path / ".env").symlink_to(tmp_path / "real")
    EnvFile.read(tmp_path / ".env").save("A=2\n", NOW)
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "real").read_text() == "A=2\n"


@pytest.mark.parametrize("kind", ["directory", "not text", "null"])
def test_what_cannot_be_edited_is_said_before_the_first_question(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".env"
    if kind == "directory":
        path.mkdir()
    elif kind == "null":
        path.symlink_to(os.devnull)
    else:
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=str(path)):
        EnvFile.read(path)
