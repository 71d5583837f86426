"""Tests how `bench.peers` aggregates its results, and that the bot's answers have full length."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors.torch import load_file, save_file

from bench.peering.chart import decades, draw, ticks
from bench.peering.endless_model import endless
from bench.peering.results import Run, figures, keep, percentile, read, table
from bot.engine.client.process import EngineProcess
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import GREEDY, ask, load

pytest_plugins = ["tests.support.fixtures.engine"]


def run(
    peer: str, conversations: int, seconds: float, first_ms: tuple[float, ...], errors: tuple[str, ...] = ()
) -> Run:
    return Run(peer, "float32", 1, conversations, seconds, 120, first_ms, (10.0, 20.0), 500.0, 300, 0, errors)


def test_rounds_become_medians_with_their_range_and_what_went_wrong() -> None:
    runs = [run("ours", 8, seconds, (seconds,)) for seconds in (2.0, 1.0, 4.0)]
    runs.append(run("other", 1, 3.0, (), ("HTTP 500: no",)))
    other, ours = figures(runs)
    assert (other.peer, other.conversations, other.first) == ("other", 1, 0.0)
    assert "HTTP 500: no" in other.remarks
    assert (ours.speed, ours.slowest, ours.fastest) == (60.0, 30.0, 120.0)
    assert (ours.first, ours.first_p95, ours.later) == (2.0, 4.0, 10.0)
    shown = table([other, ours], {"third": "cannot be installed"})
    assert "60.0 (30.0 to 120.0)" in shown
    assert "cannot be installed" in shown


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0
    assert percentile([float(number) for number in range(1, 101)], 0.95) == 95.0


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    runs = [run("ours", 1, 1.0, (1.0, 2.0)), run("other", 4, 2.0, (), ("gone",))]
    for each in runs:
        keep(each, tmp_path / "runs.jsonl")
    assert read(tmp_path / "runs.jsonl") == runs


def test_axes_reach_what_they_show() -> None:
    assert ticks(226.0) == [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]
    assert ticks(0.9)[-1] >= 0.9
    assert decades(34.0, 6300.0) == [10.0, 100.0, 1000.0, 10000.0]


def test_the_picture_has_a_line_for_every_peer_in_every_panel() -> None:
    rows = figures([run(peer, number, 1.0, (5.0,)) for peer in ("a<b", "ours") for number in (1, 8)])
    lines = list(ElementTree.fromstring(draw(rows)).iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 8
    assert all(line.attrib["points"].count(",") == 2 for line in lines)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_model_without_an_end_answers_to_the_last_token(
    engine: EngineProcess, tiny: dict[str, Path], tmp_path: Path
) -> None:
    """The model always writes its end token."""
    model = Path(shutil.copytree(tiny["phi"], tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["lm_head.bias"][json.loads((model / "config.json").read_text())["eos_token_id"]] = 1e4
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    params = replace(GREEDY, max_tokens=9)
    for folder, tokens, reason in (
        (model, 1, FinishReason.STOP),
        (endless(model, tmp_path / "endless"), 9, FinishReason.LENGTH),
    ):
        await load(engine, folder)
        answer = await ask(engine, folder.name, "Where are the keys?", params)
        assert (answer.usage.generated_tokens, answer.finish_reason) == (tokens, reason)
