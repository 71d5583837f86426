"""Tests downloads of GGUF files: the real huggingface_hub against a fake hub on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.config.settings import Settings, load_settings
from bot.models.catalog import Catalog
from bot.models.file_download import PullProgress
from bot.models.hub_client import Hub
from bot.models.model_spec import ModelSpec
from bot.models.removal import stored
from bot.types.errors import ConfigError, ModelError
from tests.support.builders.gguf_files import write_gguf, write_split
from tests.support.builders.hub_models import CHUNK, NAME, hub, ignore, signed_in, whole
from tests.support.fakes.hub import LARGE, FakeHub, Repo

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as server:
        files = {"README.md": b"# Tiny", "template.py": b"print()", "config.json": b"{}"}
        for label in ("Q8_0", "Q4_K_M"):
            files[f"Tiny-{label}.gguf"] = write_gguf(tmp_path / "made.gguf", template=label).read_bytes()
        for part in write_split(tmp_path / "Tiny-F16"):
            files[f"F16/{part.name}"] = part.read_bytes()
        server.repos[NAME] = Repo(files)
        yield server


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # The library reads the login's path from the environment at import; the test replaces it.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    return load_settings()


def named(tag: str) -> ModelSpec:
    catalog = Catalog.of(load_settings(model=f"{NAME}:{tag}"))
    return catalog.get(catalog.default)


def pull(ours: Hub, spec: ModelSpec) -> Path:
    return ours.fetch(spec, ours.plan(spec), ignore)


@pytest.mark.parametrize("tag", ["Q4_K_M", "q4_k_m", "Tiny-Q4_K_M.gguf"])
def test_one_file_is_planned_fetched_and_found_again(fake: FakeHub, settings: Settings, home: Path, tag: str) -> None:
    ours, spec = hub(fake, settings, home), named(tag)
    assert ours.here(spec) is None
    plan = ours.plan(spec)
    content = fake.repos[NAME].files["Tiny-Q4_K_M.gguf"]
    assert (plan.files, plan.total, plan.missing) == (("Tiny-Q4_K_M.gguf",), len(content), len(content))
    steps: list[PullProgress] = []
    file = ours.fetch(spec, plan, steps.append)
    assert file.name == "Tiny-Q4_K_M.gguf"
    assert file.read_bytes() == content
    assert steps[-1] == PullProgress("fetching", len(content), len(content))
    assert [path.name for path in file.parent.rglob("*")] == ["Tiny-Q4_K_M.gguf"], "nothing else of the repository"
    before = len(fake.requests)
    assert hub(fake, settings, home).here(spec) == file
    assert len(fake.requests) == before, "finding a model asks nobody"


def test_all_parts_of_a_split_model_are_fetched(fake: FakeHub, settings: Settings, home: Path) -> None:
    ours = hub(fake, settings, home)
    first = pull(ours, named("F16"))
    assert first.name == "Tiny-F16-00001-of-00003.gguf"
    assert len(list(first.parent.glob("*.gguf"))) == 3
    for number in (1, 2, 3):
        spec = named(f"F16/Tiny-F16-0000{number}-of-00003.gguf")
        assert ours.here(spec) == first, "found by the name of each part, also without a record of it"
    (first.parent / "Tiny-F16-00002-of-00003.gguf").unlink()
    assert ours.here(named("F16")) is None
    assert pull(ours, named("F16")) == first
    assert ours.here(named("F16")) == first


def test_a_part_that_the_hub_lacks_is_named(fake: FakeHub, settings: Settings, home: Path) -> None:
    del fake.repos[NAME].files["F16/Tiny-F16-00003-of-00003.gguf"]
    with pytest.raises(ModelError, match=r"not complete on the hub: F16/Tiny-F16-00003-of-00003\.gguf is not there"):
        hub(fake, settings, home).plan(named("F16"))


def test_an_interrupted_pull_resumes(fake: FakeHub, settings: Settings, home: Path, tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "big.gguf").read_bytes() + os.urandom(2 * CHUNK)
    fake.repos[NAME].files["Tiny-Q8_0.gguf"] = content
    ours, spec = hub(fake, settings, home), named("Q8_0")
    pull(ours, named("Q4_K_M"))

    def enough(step: PullProgress) -> None:
        if step.done > CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours.fetch(spec, ours.plan(spec), enough)
    assert ours.here(spec) is None
    assert any(path.name.endswith(".incomplete") for path in stored(spec, settings, ours).paths)
    assert pull(ours, spec).read_bytes() == content
    assert fake.fetched("Tiny-Q8_0.gguf") == ["", f"bytes={CHUNK}-"]


def test_a_damaged_transfer_is_deleted(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME].damaged = {"Tiny-Q8_0.gguf"}
    ours = hub(fake, settings, home)
    with pytest.raises(ModelError, match=r"Tiny-Q8_0\.gguf arrived damaged"):
        pull(ours, named("Q8_0"))
    assert ours.here(named("Q8_0")) is None


def test_a_pointer_in_place_of_the_file_is_said(fake: FakeHub, settings: Settings, home: Path) -> None:
    assert len(POINTER) < LARGE
    fake.repos[NAME].files["Tiny-Q8_0.gguf"] = POINTER
    ours = hub(fake, settings, home)
    with pytest.raises(ModelError, match="is a Git LFS pointer, not the model itself"):
        pull(ours, named("Q8_0"))
    assert ours.here(named("Q8_0")) is None


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [("Q5_K_M", "has no file for Q5_K_M; there are F16/"), ("other.gguf", "has no file for other.gguf")],
)
def test_what_the_repository_lacks(fake: FakeHub, settings: Settings, home: Path, tag: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        hub(fake, settings, home).plan(named(tag))
    with pytest.raises(ModelError, match=sentence):
        hub(fake, settings, home).check_access(named(tag))


def test_a_repository_of_gguf_files_asks_for_one(fake: FakeHub, settings: Settings, home: Path) -> None:
    del fake.repos[NAME].files["config.json"]
    with pytest.raises(ModelError, match=f"one must be named, as {NAME}:F16; there are F16/Tiny"):
        hub(fake, settings, home).plan(ModelSpec(name="x", repo=NAME))


def test_a_repository_of_safetensors_has_no_such_file(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    with pytest.raises(ModelError, match="holds no GGUF files"):
        hub(fake, settings, home).plan(named("Q8_0"))


def test_names_of_the_listing_that_lead_outside_are_not_used(fake: FakeHub, settings: Settings, home: Path) -> None:
    content = fake.repos[NAME].files["Tiny-Q8_0.gguf"]
    fake.repos[NAME] = Repo({"../../evil-Q8_0.gguf": content, "/tmp/evil-Q8_0.gguf": content})
    with pytest.raises(ModelError, match="holds no GGUF files"):
        pull(hub(fake, settings, home), named("Q8_0"))


@pytest.mark.parametrize("tag", ["../x.gguf", "a/../../x.gguf", "", "a b", "x.bin/y"])
def test_wrong_names_are_refused_before_the_hub_is_asked(tag: str) -> None:
    with pytest.raises(ConfigError, match="There is no model called"):
        named(tag)


def test_a_gated_repository_needs_an_account(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME].gated = True
    with pytest.raises(ModelError, match="needs an account: accept its licence"):
        hub(fake, settings, home).plan(named("Q8_0"))
    fake.accounts["hf_ann"] = "ann"
    fake.granted.add("hf_ann")
    assert pull(hub(fake, signed_in("hf_ann"), home), named("Q8_0")).is_file()


def test_removal_leaves_the_repositorys_other_models(fake: FakeHub, settings: Settings, home: Path) -> None:
    ours = hub(fake, settings, home)
    one, split = pull(ours, named("Q8_0")), pull(ours, named("F16"))
    found = stored(named("F16"), settings, ours)
    assert found.bytes >= sum(len(content) for name, content in fake.repos[NAME].files.items() if "F16" in name)
    found.delete()
    assert ours.here(named("F16")) is None
    assert not split.exists()
    assert ours.here(named("Q8_0")) == one
    stored(named("Q8_0"), settings, ours).delete()
    assert list((home / "hub").glob("models--*")) == [], "the last one leaves nothing"


def test_the_fetched_commit_stays_when_the_hub_moves_on(fake: FakeHub, settings: Settings, home: Path) -> None:
    ours = hub(fake, settings, home)
    file = pull(ours, named("Q8_0"))
    refs = home / "hub" / "models--acme--chatty" / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text("f" * 40)
    assert ours.here(named("Q8_0")) == file


def test_a_file_that_another_program_fetched_is_found(fake: FakeHub, settings: Settings, home: Path) -> None:
    folder = home / "hub" / "models--acme--chatty"
    file = write_gguf(folder / "snapshots" / ("c" * 40) / "Tiny-Q8_0.gguf")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c" * 40)
    ours = hub(fake, settings, home)
    assert ours.here(named("Q8_0")) == file
    assert ours.here(named("Q4_K_M")) is None
