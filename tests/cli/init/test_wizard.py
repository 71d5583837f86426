"""Tests the last step of `inhouse init`: the commands that it prints can be copied into a shell."""

import shlex

import pytest

from bot.cli.init.wizard import Options, run_init


def test_a_printed_command_is_quoted_for_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.prefix", "/opt/my bot/.venv")
    monkeypatch.setenv("PATH", "/nowhere")
    assert run_init(Options(yes=True, model="smollm2", discord=False, slack=False, pull=False)) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if line.endswith(" chat")]
    assert [shlex.split(line) for line in printed] == [["/opt/my bot/.venv/bin/inhouse", "chat"]]
