"""Fetching from the hub: the real huggingface_hub against a hub on loopback."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.config import Settings, load_settings
from bot.errors import ModelError
from bot.models import repository
from bot.models.hardware import child_environment
from bot.models.hub_errors import HubUnreachable
from bot.models.repository import Hub
from bot.models.spec import ModelSpec
from bot.models.weights import PullProgress
from tests.fakes.hub import COMMIT, FakeHub, Repo

NAME = "acme/chatty"
SPEC = ModelSpec(name="chatty", repo=NAME, licence="MIT")
CHUNK = 10 << 20
"""huggingface_hub writes in pieces of this size."""


def weights(letter: str, size: int = 5000) -> bytes:
    return letter.encode() * size


def whole(**more: bytes) -> Repo:
    small = {"config.json": b"{}", "tokenizer.json": b"{}", "README.md": b"# Chatty"}
    return Repo({**small, "model.safetensors": weights("w"), "pytorch_model.bin": weights("p"), **more})


def sharded() -> Repo:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    repo = whole(**{"model.safetensors.index.json": json.dumps(index).encode()})
    del repo.files["model.safetensors"]
    parts = {"model-1.safetensors": weights("1"), "model-2.safetensors": weights("2")}
    repo.files |= parts | {"consolidated.safetensors": weights("c")}
    return repo


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as server:
        yield server


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Where a login is stored is read from the environment when the library is imported; this machine's is not ours.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    return load_settings()


def hub(fake: FakeHub, settings: Settings, home: Path) -> Hub:
    return Hub(settings, fake.endpoint, home / "hub")


def ignore(_: PullProgress) -> None:
    pass


def pull(hub: Hub) -> Path:
    return hub.fetch(SPEC, hub.plan(SPEC), ignore)


def signed_in(token: str) -> Settings:
    return load_settings(hf_token=token)


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


def test_a_damaged_file_is_told_and_fetched_anew(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    fake.repos[NAME].damaged = {"model.safetensors"}
    ours = hub(fake, settings, home)
    with pytest.raises(ModelError, match="arrived damaged"):
        pull(ours)
    assert ours.here(SPEC) is None
    fake.repos[NAME].damaged.clear()
    assert (pull(ours) / "model.safetensors").read_bytes() == weights("w")


def test_a_licence_to_accept_needs_an_account(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    fake.repos[NAME].gated = True
    with pytest.raises(ModelError, match=f"accept its licence at {fake.endpoint}/{NAME}, then run `inhouse login`"):
        hub(fake, settings, home).plan(SPEC)

    fake.accounts["hf_ann"] = "ann"
    with pytest.raises(ModelError, match="Your account has no access"):
        hub(fake, signed_in("hf_ann"), home).plan(SPEC)

    fake.granted.add("hf_ann")
    assert hub(fake, signed_in("hf_ann"), home).plan(SPEC).gated
    assert pull(hub(fake, signed_in("hf_ann"), home)).is_dir()


def test_a_wrong_token_is_told_without_showing_it(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    with pytest.raises(ModelError, match="does not accept the token") as caught:
        hub(fake, signed_in("hf_wrong"), home).plan(SPEC)
    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "hf_ann"])
def test_no_such_model(fake: FakeHub, settings: Settings, home: Path, token: str) -> None:
    fake.accounts["hf_ann"] = "ann"
    with pytest.raises(ModelError, match=f"There is no model {NAME} on the hub, or it is private"):
        hub(fake, signed_in(token) if token else settings, home).plan(SPEC)


def test_what_is_no_name_of_a_repository_never_reaches_the_hub(fake: FakeHub, settings: Settings, home: Path) -> None:
    with pytest.raises(ModelError, match="must look like org/name"):
        hub(fake, settings, home).plan(ModelSpec(name="x", repo="a--b/c..d"))
    assert fake.requests == []


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [("model.safetensors", "holds no safetensors weights"), ("config.json", "has no config.json")],
)
def test_repositories_that_cannot_be_loaded(
    fake: FakeHub, settings: Settings, home: Path, gone: str, sentence: str
) -> None:
    fake.repos[NAME] = whole()
    del fake.repos[NAME].files[gone]
    with pytest.raises(ModelError, match=sentence):
        hub(fake, settings, home).plan(SPEC)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (b'{"weight_map": {"a": "lost.safetensors"}}', "names lost.safetensors, which is not there"),
        (b'{"weight_map": {"a": "../../escape.safetensors"}}', "does not say which safetensors"),
        (b'{"weight_map": {"a": "pytorch_model.bin"}}', "does not say which safetensors"),
        (b"{}", "does not say which safetensors"),
        (b"not json", "is damaged"),
    ],
)
def test_an_index_that_leads_nowhere(
    fake: FakeHub, settings: Settings, home: Path, index: bytes, sentence: str
) -> None:
    fake.repos[NAME] = sharded()
    fake.repos[NAME].files["model.safetensors.index.json"] = index
    with pytest.raises(ModelError, match=sentence):
        hub(fake, settings, home).plan(SPEC)


def test_too_little_disk_is_told_before_anything_large_is_fetched(
    fake: FakeHub, settings: Settings, home: Path
) -> None:
    fake.repos[NAME] = whole()
    fake.repos[NAME].announced = {"model.safetensors": 10**18}
    ours = hub(fake, settings, home)
    plan = ours.plan(SPEC)
    with pytest.raises(ModelError, match=r"needs 1000000000\.0 GB of disk; .* HF_HOME"):
        ours.fetch(SPEC, plan, ignore)
    assert fake.fetched("model.safetensors") == []


def test_a_cache_that_cannot_be_written_is_told(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    (home / "hub").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be used"):
        hub(fake, settings, home).plan(SPEC)


@pytest.mark.parametrize("status", [500, 503, 407])
def test_an_ill_hub_is_a_hub_out_of_reach(fake: FakeHub, settings: Settings, home: Path, status: int) -> None:
    fake.status = status
    with pytest.raises(HubUnreachable, match=f"answers with error {status}"):
        hub(fake, settings, home).plan(SPEC)


@pytest.mark.parametrize(("status", "sentence"), [(429, "asks for patience"), (403, "may not read"), (418, "refuses")])
def test_other_refusals(fake: FakeHub, settings: Settings, home: Path, status: int, sentence: str) -> None:
    fake.status = status
    with pytest.raises(ModelError, match=sentence):
        hub(fake, settings, home).plan(SPEC)


def test_a_refused_connection_is_told_at_once(settings: Settings, home: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HubUnreachable, match="cannot be reached"):
            Hub(settings, endpoint, home / "hub").plan(SPEC)


def test_a_silent_hub_is_given_up(settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "REACH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HubUnreachable, match=r"cannot be reached|does not answer"):
            Hub(settings, endpoint, home / "hub").plan(SPEC)


def test_the_hub_of_the_environment_is_used_and_the_login_kept(fake: FakeHub, home: Path) -> None:
    """In a process of its own, as a person would run it: HF_ENDPOINT and HF_HOME are read by the library at import."""
    fake.repos[NAME] = whole()
    fake.repos[NAME].gated = True
    fake.accounts["hf_ann"] = "ann"
    fake.granted.add("hf_ann")
    script = f"""
from bot.config import load_settings
from bot.models.hub import installed, login, plan, pull
from bot.models.spec import ModelSpec
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


def test_a_token_that_nobody_knows_is_not_stored(fake: FakeHub, settings: Settings, home: Path) -> None:
    with pytest.raises(ModelError, match="does not accept the token"):
        hub(fake, settings, home).whoami("hf_wrong")
