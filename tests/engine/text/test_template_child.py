"""Tests the limits on a template's process that does not answer as it should: too much, or not at all."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.engine.text import template_renderer
from bot.engine.text.template_renderer import TemplateExceeded, TemplateRenderer

MESSAGES = [{"role": "user", "content": "hello"}]
Scripted = Callable[[str], TemplateRenderer]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Scripted]:
    """Makes a renderer whose process runs a script."""
    renderers: list[TemplateRenderer] = []

    def make(script: str) -> TemplateRenderer:
        file = tmp_path / "child.py"
        file.write_text(f"import sys, time\n{script}")
        monkeypatch.setattr(template_renderer, "CHILD", file)
        renderers.append(TemplateRenderer(seconds=20.0))
        return renderers[-1]

    yield make
    for renderer in renderers:
        renderer.close()


def test_an_answer_without_an_end_is_cut_off(scripted: Scripted) -> None:
    renderer = scripted(
        "print(flush=True)\nsys.stdin.readline()\nwhile True: sys.stdout.write(100_000 * 'x'), time.sleep(0.001)"
    )
    began = time.monotonic()
    with pytest.raises(TemplateExceeded, match=r"^writes more than \d+ kB$"):
        renderer.render("{{ messages }}", MESSAGES, {})
    assert time.monotonic() - began < 15, "not only its time limit ended it"
    assert renderer.pid is None


def test_a_process_that_does_not_start_is_given_up(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_renderer, "START_S", 0.5)
    renderer = scripted("time.sleep(1000)")
    with pytest.raises(TemplateExceeded):
        renderer.render("{{ messages }}", MESSAGES, {})


def test_a_process_that_ends_in_the_middle_of_an_answer_is_tried_again(scripted: Scripted, tmp_path: Path) -> None:
    renderer = scripted(
        "from pathlib import Path\n"
        f"first = Path({str(tmp_path / 'first')!r})\n"
        "print(flush=True)\nsys.stdin.readline()\n"
        "if not first.exists(): first.touch(); print('{\"text\": ', end='', flush=True); sys.exit()\n"
        'print(\'{"text": "whole", "timed": false}\', flush=True); sys.stdin.readline()'
    )
    assert renderer.render("{{ messages }}", MESSAGES, {}).text == "whole"
