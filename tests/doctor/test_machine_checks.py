"""Tests `inhouse doctor` for Python, torch, the driver and the GPU."""

from dataclasses import replace
from pathlib import Path

import pytest

from bot.doctor import machine_checks
from bot.doctor.machine_checks import Card, TorchProbeCache, gpu, gpu_findings
from bot.doctor.torch_probe import Torch, run_probe
from bot.models.hardware import Hardware
from bot.types.findings import State
from tests.support.builders.findings import about, complete, gathered, states

LAPTOP = Hardware("", "", 0, 0, False, "A CPU", 8, 16_000, 12_000, "no GPU answers")
CARD = Hardware("A GPU", "13.0", 24_000, 23_500, True, "A CPU", 16, 64_000, 60_000)
PLAIN = Torch("2.13.0+cpu", hardware=LAPTOP)
CUDA = Torch("2.13.0", "13.0", "13.1", ("A GPU",), hardware=CARD)
NONE = Card(card=False, driver=False, device=False, uvm=False)
THERE = Card(card=True, driver=True, device=True, uvm=True)
UNDRIVEN = Card(card=True, driver=False, device=False, uvm=False)


@pytest.mark.parametrize(
    ("torch", "card", "device", "state", "found", "fix"),
    [
        (PLAIN, NONE, "auto", State.OK, "none; the CPU is used", ""),
        (replace(CUDA, driver_cuda="", gpus=(), trouble="no driver"), NONE, "auto", State.OK, "none; the CPU", ""),
        (PLAIN, NONE, "cuda", State.WRONG, "there is no GPU", "auto or cpu"),
        (CUDA, THERE, "cpu", State.OK, "not used", ""),
        (CUDA, THERE, "auto", State.OK, "A GPU, 24,000 MB, 23,500 MB free; its driver supports CUDA 13.1", ""),
        (replace(CUDA, gpus=("A GPU", "A GPU")), THERE, "auto", State.OK, "the first of 2 is used", ""),
        (PLAIN, THERE, "auto", State.WARNING, "built without CUDA", "a build of torch with CUDA"),
        (PLAIN, THERE, "cuda", State.WRONG, "built without CUDA", "a build of torch with CUDA"),
        (
            replace(CUDA, driver_cuda="", gpus=(), trouble="no driver"),
            UNDRIVEN,
            "auto",
            State.WARNING,
            "not loaded",
            "--gpus",
        ),
        (
            replace(CUDA, driver_cuda="11.4", gpus=(), trouble="too old"),
            THERE,
            "auto",
            State.WARNING,
            "supports CUDA up to 11.4, but torch was built for 13.0",
            "Update NVIDIA's driver, or install a build of torch for CUDA 11.4",
        ),
        (
            replace(CUDA, trouble="CUDA error: no kernel image is available for execution"),
            THERE,
            "auto",
            State.WARNING,
            "does not support this GPU (A GPU)",
            "CUDA version that supports",
        ),
        (replace(CUDA, gpus=(), trouble="unknown error"), THERE, "auto", State.WARNING, "unknown error", "nvidia-smi"),
    ],
)
def test_torch_driver_and_gpu_have_to_go_together(
    torch: Torch, card: Card, device: str, state: State, found: str, fix: str
) -> None:
    findings = list(gpu_findings(torch, card, device))
    gpu = about(findings, "GPU")
    assert (gpu.state, found in gpu.found, fix in gpu.fix) == (state, True, True), gpu
    assert complete(findings)


@pytest.mark.parametrize(("torch", "card", "device"), [(PLAIN, NONE, "auto"), (CUDA, THERE, "cpu")])
def test_layers_on_a_gpu_that_is_not_used_are_a_warning(torch: Torch, card: Card, device: str) -> None:
    found = about(gpu_findings(torch, card, device, 3), "GPU layers")
    assert (found.state, found.found) == (State.WARNING, "INHOUSE_GPU_LAYERS has no effect, since the CPU is used")
    for layers in (None, 0):
        assert "GPU layers" not in states(gpu_findings(torch, card, device, layers))
    assert "GPU layers" not in states(gpu_findings(CUDA, THERE, "auto", 3))


def test_a_missing_uvm_device_is_told_where_a_gpu_is() -> None:
    bare = replace(THERE, uvm=False)
    found = about(gpu_findings(CUDA, bare, "auto"), "GPU memory")
    assert (found.state, "modprobe nvidia-uvm" in found.fix) == (State.WARNING, True)
    assert "GPU memory" not in states(gpu_findings(CUDA, THERE, "auto"))
    assert "GPU memory" not in states(gpu_findings(CUDA, bare, "cpu"))


def test_a_torch_that_cannot_be_loaded_is_wrong() -> None:
    (found,) = gpu_findings(Torch(trouble="ImportError: libtorch.so"), NONE, "auto")
    assert (found.check, found.state) == ("torch", State.WRONG)
    assert "libtorch.so" in found.found


def test_the_card_is_seen_in_the_files_of_the_machine(tmp_path: Path) -> None:
    assert Card.of(tmp_path) == NONE
    slot = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    slot.mkdir(parents=True)
    (slot / "vendor").write_text("0x10de\n")
    (slot / "class").write_text("0x040300\n")
    assert not Card.of(tmp_path).card, "the sound of a card is no card"
    (slot / "class").write_text("0x030200\n")
    assert Card.of(tmp_path) == UNDRIVEN
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert Card.of(tmp_path) == replace(THERE, uvm=False)
    (tmp_path / "dev/nvidia-uvm").touch()
    assert Card.of(tmp_path) == THERE


async def test_the_real_torch_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked = 0

    async def counted() -> Torch:
        nonlocal asked
        asked += 1
        return await run_probe()

    looked = TorchProbeCache(counted)
    first = await looked.torch()
    assert await looked.torch() is first
    assert asked == 1
    assert first.version
    assert first.hardware is not None
    assert first.hardware.device == "cpu"
    assert states(await gathered(gpu(looked, "auto", root=tmp_path)))["torch"] is State.OK


async def test_a_torch_that_breaks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.setattr(
        "bot.doctor.torch_probe.child_environment", lambda: {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    )
    seen = await run_probe()
    assert seen.hardware is None
    assert "libcudart.so.13" in seen.trouble


def test_python_outside_of_a_venv_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(machine_checks.python()) == {"Python": State.OK}
    monkeypatch.setattr("sys.base_prefix", __import__("sys").prefix)
    (found,) = machine_checks.python()
    assert (found.state, found.fix) == (State.WARNING, "Use a virtual environment; `make run` makes one.")
    monkeypatch.setattr("bot.doctor.machine_checks.OLDEST_PYTHON", (9, 9))
    assert states(machine_checks.python()) == {"Python": State.WRONG}


def test_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = machine_checks.memory()
    assert found.state is State.OK
    monkeypatch.setattr("bot.doctor.machine_checks.LEAST_RAM_MB", 10**9)
    assert states(machine_checks.memory()) == {"memory": State.WARNING}
