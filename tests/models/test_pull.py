"""Tests downloads: the real huggingface_hub against a fake hub on loopback."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.config.settings import Settings, load_settings
from bot.models.file_download import PullProgress
from bot.models.hardware import child_environment
from bot.models.hub_client import Hub
from bot.models.removal import stored
from bot.types.errors import ModelError
from tests.support.builders.hub_models import CHUNK, NAME, SPEC, hub, pull, sharded, weights, whole
from tests.support.fakes.hub import COMMIT, FakeHub


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as server:
        yield server


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # The library reads the login's path from the environment at import; the test replaces it.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    return load_settings()


def test_a_model_is_planned_fetched_and_found_again(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    ours = hub(fake, settings, home)
    assert ours.here(SPEC) is None

    plan = ours.plan(SPEC)
    assert (plan.licence, plan.gated, plan.commit) == ("MIT", False, COMMIT)
    assert set(plan.files) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert plan.missing == 5000
    assert plan.total == 5004

    steps: list[PullProgress] = []
    folder = ours.fetch(SPEC, plan, steps.append)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == weights("w")
    assert steps[-1] == PullProgress("fetching", 5000, 5000)

    before = len(fake.requests)
    assert hub(fake, settings, home).here(SPEC) == folder
    assert len(fake.requests) == before, "finding a model asks nobody"


def test_what_a_pull_left_is_found_for_removal_also_in_an_earlier_cache(
    fake: FakeHub, settings: Settings, home: Path
) -> None:
    fake.repos[NAME] = whole()
    ours = hub(fake, settings, home)
    assert stored(SPEC, settings, ours).paths == ()
    folder = pull(ours)
    moved = Hub(settings, fake.endpoint, home / "another")
    found = stored(SPEC, settings, moved)
    assert folder.parents[1] in found.paths
    assert 5004 <= found.bytes < 6000
    found.delete()
    assert ours.here(SPEC) is moved.here(SPEC) is None
    assert stored(SPEC, settings, ours).paths == ()
    assert pull(ours) == folder, "it can be fetched again"


def test_the_remembered_commit_stays_when_the_hub_moves_on(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    folder = pull(hub(fake, settings, home))
    refs = home / "hub" / "models--acme--chatty" / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text("f" * 40)
    assert hub(fake, settings, home).here(SPEC) == folder


def test_a_model_in_the_cache_without_its_weights_is_not_here(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    ours = hub(fake, settings, home)
    folder = pull(ours)
    (folder / "model.safetensors").unlink()
    assert ours.here(SPEC) is None
    assert pull(ours) == folder
    assert ours.here(SPEC) == folder


def test_only_the_indexed_weights_are_fetched(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = sharded()
    folder = pull(hub(fake, settings, home))
    assert (folder / "model-2.safetensors").read_bytes() == weights("2")
    assert hub(fake, settings, home).plan(SPEC).missing == 0
    assert fake.fetched("consolidated.safetensors") == []
    assert fake.fetched("pytorch_model.bin") == []
    assert fake.fetched("README.md") == []


def test_a_broken_connection_is_gone_on_with(fake: FakeHub, settings: Settings, home: Path) -> None:
    content = os.urandom(CHUNK + 4000)
    fake.repos[NAME] = whole(**{"model.safetensors": content})
    fake.cut_once["model.safetensors"] = CHUNK + 1
    folder = pull(hub(fake, settings, home))
    assert (folder / "model.safetensors").read_bytes() == content
    assert len(fake.fetched("model.safetensors")) == 2


def test_an_interrupted_pull_goes_on_where_it_stopped(fake: FakeHub, settings: Settings, home: Path) -> None:
    content = os.urandom(2 * CHUNK + 4000)
    fake.repos[NAME] = whole(**{"model.safetensors": content})
    ours = hub(fake, settings, home)

    def enough(step: PullProgress) -> None:
        if step.done > CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours.fetch(SPEC, ours.plan(SPEC), enough)
    assert ours.here(SPEC) is None

    plan = ours.plan(SPEC)
    assert plan.missing == len(content) - CHUNK
    steps: list[PullProgress] = []
    folder = ours.fetch(SPEC, plan, steps.append)
    assert fake.fetched("model.safetensors") == ["", f"bytes={CHUNK}-"]
    assert steps[0].done > CHUNK
    assert (folder / "model.safetensors").read_bytes() == content


def test_a_file_that_was_whole_but_had_no_name_yet_is_not_fetched_again(
    fake: FakeHub, settings: Settings, home: Path
) -> None:
    """Power failed during the check of the file."""
    content = weights("w")
    fake.repos[NAME] = whole()
    (blobs := home / "hub" / "models--acme--chatty" / "blobs").mkdir(parents=True)
    (blobs / f"{hashlib.sha256(content).hexdigest()}.inhouse.incomplete").write_bytes(content)
    assert (pull(hub(fake, settings, home)) / "model.safetensors").read_bytes() == content
    assert fake.fetched("model.safetensors") == []
    assert not list(blobs.glob("*.incomplete"))


def test_a_damaged_file_is_reported_and_fetched_anew(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    fake.repos[NAME].damaged = {"model.safetensors"}
    ours = hub(fake, settings, home)
    with pytest.raises(ModelError, match="arrived damaged"):
        pull(ours)
    assert ours.here(SPEC) is None
    fake.repos[NAME].damaged.clear()
    assert (pull(ours) / "model.safetensors").read_bytes() == weights("w")


def test_the_hub_of_the_environment_is_used_and_the_login_kept(fake: FakeHub, home: Path) -> None:
    """In a separate process, because the library reads HF_ENDPOINT and HF_HOME at import."""
    fake.repos[NAME] = whole()
    fake.repos[NAME].gated = True
    fake.accounts["hf_ann"] = "ann"
    fake.granted.add("hf_ann")
    script = f"""
from bot.config.settings import load_settings
from bot.models.pull import installed, login, plan, pull
from bot.models.model_spec import ModelSpec
spec, settings = ModelSpec(name="chatty", repo={NAME!r}), load_settings()
print(login(settings, "hf_ann"))
print(pull(spec, settings, None, plan(spec, settings)) == installed(spec, settings))
import sys
print("torch" in sys.modules)
"""
    environment = child_environment(HF_ENDPOINT=fake.endpoint, HF_HOME=str(home / "hf"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["Logged in as ann.", "True", "False"], done.stderr
    assert (home / "hf" / "token").read_text() == "hf_ann"

    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    script = script.replace('print(login(settings, "hf_ann"))', "").replace(", plan(spec, settings)", "")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=offline, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["True", "False"], done.stderr


def test_a_token_that_the_hub_does_not_know_is_not_stored(fake: FakeHub, settings: Settings, home: Path) -> None:
    with pytest.raises(ModelError, match="does not accept the token"):
        hub(fake, settings, home).whoami("hf_wrong")
