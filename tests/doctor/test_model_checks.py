"""Tests `inhouse doctor` for models: which are complete, which fit, and which the hub has."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save

from bot.config.settings import Settings, load_settings
from bot.doctor import hub_checks, model_checks
from bot.doctor.machine_checks import TorchProbeCache
from bot.doctor.torch_probe import Torch
from bot.models import pull as pulling
from bot.models.catalog import Catalog
from bot.models.hardware import Hardware
from bot.models.removal import stored
from bot.types.findings import Finding, State
from tests.support.builders.findings import about, complete, gathered, states
from tests.support.builders.gguf_files import write_gguf
from tests.support.builders.hub_models import NAME, whole
from tests.support.fakes.hub import FakeHub

CARD = Hardware("A GPU", "13.0", 80_000, 79_000, True, "A CPU", 16, 64_000, 60_000)
LAPTOP = Hardware("", "", 0, 0, False, "A CPU", 8, 16_000, 12_000, "no GPU answers")
TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeHub]:
    """A fake hub with a small model that is configured but not downloaded."""
    with FakeHub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setenv("INHOUSE_MODEL", NAME)
        weights = save({"w": torch.zeros(600)})
        server.repos[NAME] = whole(**{"model.safetensors": weights, "tokenizer.json": b'{"model": {}}'})
        yield server


def fetched(settings: Settings) -> Path:
    """The directory of the default model after a pull."""
    catalog = Catalog.of(settings)
    return pulling.pull(catalog.get(catalog.default), settings)


def on_disk(settings: Settings, *, serving: bool = True) -> Finding:
    return about(model_checks.cached(settings, serving=serving), f"model {NAME}")


def test_a_model_that_is_not_here_is_wrong_only_where_it_is_needed(fake: FakeHub) -> None:
    settings = load_settings()
    assert (on_disk(settings).state, on_disk(settings).fix) == (State.WRONG, f"Run `inhouse pull {NAME}`.")
    assert on_disk(settings, serving=False).state is State.WARNING
    assert fake.requests == []


def test_a_model_that_others_may_switch_to_is_a_warning_if_it_is_not_here(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(load_settings())
    monkeypatch.setenv("INHOUSE_MODELS", f"{NAME},phi-4")
    found = list(model_checks.cached(load_settings(), serving=True))
    assert states(found) == {f"model {NAME}": State.OK, "model phi-4": State.WARNING}


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: cut(folder / "model.safetensors", 100), "model.safetensors has 2,"),
        (lambda folder: cut(folder / "model.safetensors", 2450), "model.safetensors is not a safetensors file"),
        (
            lambda folder: rewrite(folder / "model.safetensors", b"\x08\0\0\0\0\0\0\0garbage."),
            "is not a safetensors file",
        ),
        (lambda folder: rewrite(folder / "config.json", b"{"), "config.json is damaged"),
        (lambda folder: rewrite(folder / "tokenizer.json", b""), "tokenizer.json is damaged"),
    ],
)
def test_a_damaged_model_is_reported_and_can_be_fetched_again(
    fake: FakeHub, harm: Callable[[Path], None], words: str
) -> None:
    settings = load_settings()
    folder = fetched(settings)
    assert on_disk(settings).state is State.OK
    harm(folder)
    found = on_disk(settings)
    assert (found.state, words in found.found) == (State.WRONG, True), found
    assert found.fix == f"Run `inhouse remove {NAME}`, then `inhouse pull {NAME}`."
    stored(Catalog.of(settings).get(NAME), settings).delete()
    assert not folder.exists()
    fetched(settings)
    assert on_disk(settings).state is State.OK


def cut(file: Path, amount: int) -> None:
    rewrite(file, file.read_bytes()[:-amount])


def rewrite(file: Path, content: bytes) -> None:
    file.resolve().write_bytes(content)


def test_a_model_of_which_a_part_is_missing_says_what(fake: FakeHub) -> None:
    settings = load_settings()
    (fetched(settings) / "model.safetensors").unlink()
    found = on_disk(settings)
    assert (found.state, "holds no safetensors weights" in found.found) == (State.WRONG, True)


def test_a_model_that_could_see_is_fetched_with_its_files_for_pictures(fake: FakeHub) -> None:
    settings = load_settings()
    files = fake.repos[NAME].files
    files["config.json"] = json.dumps(json.loads(files["config.json"]) | {"vision_config": {}}).encode()
    files["preprocessor_config.json"] = b"{}"
    folder = fetched(settings)
    assert on_disk(settings).state is State.OK
    (folder / "preprocessor_config.json").unlink()
    found = on_disk(settings, serving=True)
    assert (found.state, found.found) == (
        State.WARNING,
        "downloaded without its files for pictures, so it reads text only",
    )
    assert found.fix == f"Run `inhouse remove {NAME}`, then `inhouse pull {NAME}`."


def test_a_damaged_directory_of_ones_own_is_to_be_copied_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "mine"
    folder.mkdir()
    for name, content in whole().files.items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("INHOUSE_MODEL", str(folder))
    found = about(model_checks.cached(load_settings(), serving=False), "model mine")
    assert (found.state, found.fix) == (State.WARNING, f"Copy it to {folder} again.")


def test_mistakes_in_the_names_are_reported_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_MODELS", "phi-5,./nowhere")
    settings = load_settings()
    found = list(model_checks.catalog(settings))
    assert [finding.state for finding in found] == [State.WRONG, State.WRONG]
    assert "no model called `phi-5`" in found[0].found
    assert "Did you mean" in found[0].fix
    assert list(model_checks.cached(settings, serving=True)) == []
    assert list(hub_checks.access(settings)) == []


def test_what_is_to_be_fetched_needs_room(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_MODEL", "phi-4")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000_000))
    (found,) = model_checks.disk(load_settings())
    assert (found.state, "HF_HOME" in found.fix) == (State.WARNING, True)
    assert "29.3 GB of models" in found.found
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=90_000_000_000))
    assert states(model_checks.disk(load_settings())) == {"disk of models": State.OK}


@pytest.mark.parametrize(
    ("hardware", "running", "default", "state"),
    [
        (CARD, False, "phi-4", State.OK),
        (replace(CARD, vram_free_mb=20_000), False, "phi-4", State.WARNING),  # another program uses it
        (replace(CARD, vram_free_mb=20_000), True, "phi-4", State.OK),  # the running Inhouse uses it
        (LAPTOP, False, "phi-4", State.WRONG),
        (LAPTOP, False, "smollm2", State.OK),
        (None, False, "phi-4", None),  # torch cannot be loaded, which another check reports
    ],
)
async def test_the_default_has_to_fit(
    home: Path, hardware: Hardware | None, running: bool, default: str, state: State | None
) -> None:
    async def ask() -> Torch:
        return Torch(hardware=hardware)

    found = await gathered(model_checks.fit(load_settings(model=default), TorchProbeCache(ask), running=running))
    assert states(found) == ({f"fit of {default}": state} if state else {})
    assert complete(found)


async def test_what_others_may_switch_to_should_fit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_MODELS", "phi-4,smollm2")

    async def ask() -> Torch:
        return Torch(hardware=CARD)

    settings = load_settings(device="cpu")  # only the RAM matters
    found = await gathered(model_checks.fit(replace_ram(settings), TorchProbeCache(ask), running=False))
    assert states(found) == {"fit of smollm2": State.OK, "fit of phi-4": State.OK}
    found = await gathered(
        model_checks.fit(load_settings(device="cpu", dtype="float32"), TorchProbeCache(ask), running=False)
    )
    assert states(found) == {"fit of smollm2": State.OK, "fit of phi-4": State.WARNING}


def replace_ram(settings: Settings) -> Settings:
    return settings.model_copy(update={"dtype": "bfloat16"})


def asked(settings: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in [*hub_checks.account(settings), *hub_checks.access(settings)]}


def test_the_hub_is_asked_about_what_is_missing(fake: FakeHub) -> None:
    fake.accounts[TOKEN] = "ana"
    found = asked(load_settings(hf_token=TOKEN))
    assert {check: finding.state for check, finding in found.items()} == {
        "hub token": State.OK,
        f"access to {NAME}": State.OK,
    }
    assert found["hub token"].found == "valid, account ana"
    assert not [path for method, path, _ in fake.requests if method == "GET" and "resolve" in path], (
        "nothing is fetched"
    )
    fetched(load_settings())
    assert set(asked(load_settings())) == {"hub token"}


def test_a_token_that_the_hub_does_not_know_is_wrong(fake: FakeHub) -> None:
    found = asked(load_settings(hf_token=TOKEN))
    assert (found["hub token"].state, "inhouse login" in found["hub token"].fix) == (State.WRONG, True)
    assert all(TOKEN not in f"{finding}" for finding in found.values())


def test_a_gated_model_names_the_page_of_its_licence(fake: FakeHub) -> None:
    fake.repos[NAME].gated = True
    found = asked(load_settings())[f"access to {NAME}"]
    assert (found.state, f"/{NAME}" in found.fix, "inhouse login" in found.fix) == (State.WRONG, True, True)
    fake.accounts[TOKEN] = "ana"
    found = asked(load_settings(hf_token=TOKEN))[f"access to {NAME}"]
    assert "has no access" in found.found
    fake.granted.add(TOKEN)
    assert asked(load_settings(hf_token=TOKEN))[f"access to {NAME}"].state is State.OK


def test_pickle_only_and_unknown_repositories_are_wrong(fake: FakeHub) -> None:
    del fake.repos[NAME].files["model.safetensors"]
    found = asked(load_settings())[f"access to {NAME}"]
    assert (found.state, "no safetensors weights" in found.found) == (State.WRONG, True)
    fake.repos.clear()
    assert asked(load_settings())[f"access to {NAME}"].state is State.WRONG


def test_a_hub_that_is_ill_is_a_warning_and_one_that_must_not_be_asked_is_well(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.status = 503
    found = asked(load_settings(hf_token=TOKEN))
    assert {finding.state for finding in found.values()} == {State.WARNING}
    assert complete(found.values())
    assert asked(load_settings(model="smollm2"))["access to smollm2"].state is State.OK, "there is another way to it"
    before = len(fake.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = asked(load_settings(hf_token=TOKEN))
    assert {check: finding.state for check, finding in found.items()} == {"hub": State.OK}
    assert hub_checks.clock() == {}
    assert len(fake.requests) == before


GGUF = f"{NAME}:Q8_0"


@pytest.fixture
def gguf(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Settings for a GGUF file of the fake hub."""
    fake.repos[NAME].files["Tiny-Q8_0.gguf"] = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    monkeypatch.setenv("INHOUSE_MODEL", GGUF)
    return load_settings().model_copy(update={"engine": "llama.cpp"})


def test_a_gguf_file_that_is_missing_names_the_pull(gguf: Settings) -> None:
    found = about(model_checks.cached(gguf, serving=True), f"model {GGUF.lower()}")
    assert (found.state, found.fix) == (State.WRONG, f"Run `inhouse pull {GGUF.lower()}`.")
    assert asked(gguf)[f"access to {GGUF.lower()}"].found == f"{GGUF} can be downloaded"


def test_a_damaged_gguf_file_names_the_damage(gguf: Settings) -> None:
    file = fetched(gguf).resolve()
    check = f"model {GGUF.lower()}"
    assert about(model_checks.cached(gguf, serving=True), check).state is State.OK
    cut(file, 200)
    found = about(model_checks.cached(gguf, serving=True), check)
    assert found.state is State.WRONG
    assert "damaged: " in found.found
    assert " bytes instead of " in found.found
    assert found.fix == f"Run `inhouse remove {GGUF.lower()}`, then `inhouse pull {GGUF.lower()}`."


@pytest.mark.parametrize(("engine", "state"), [("llama.cpp", State.OK), ("auto", State.WRONG), ("vllm", State.WRONG)])
async def test_a_gguf_file_fits_one_engine(gguf: Settings, engine: str, state: State) -> None:
    async def ask() -> Torch:
        return Torch(hardware=LAPTOP)

    fetched(gguf)
    settings = gguf.model_copy(update={"engine": engine})
    (found,) = await gathered(model_checks.fit(settings, TorchProbeCache(ask), running=False))
    assert found.state is state
    if state is State.WRONG:
        assert found.fix == "Set INHOUSE_ENGINE=llama.cpp."
