"""Tests refusals and failures of a hub: one sentence each, from the real huggingface_hub."""

import socket
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from bot.config.settings import Settings, load_settings
from bot.models import hub_client
from bot.models.hub_client import Hub
from bot.models.hub_errors import HubUnreachable
from bot.models.model_spec import ModelSpec
from bot.types.errors import ModelError
from tests.support.builders.hub_models import NAME, SPEC, hub, ignore, pull, sharded, signed_in, whole
from tests.support.fakes.hub import FakeHub

FULL = Path("/dev/full")
"""Every write to it fails with a full disk."""


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as server:
        yield server


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # The library reads the login's path from the environment at import; the test replaces it.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    return load_settings()


@pytest.mark.fault(30)
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


def test_a_wrong_token_is_reported_without_showing_it(fake: FakeHub, settings: Settings, home: Path) -> None:
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


@pytest.mark.fault(30)
def test_too_little_disk_is_reported_before_anything_large_is_fetched(
    fake: FakeHub, settings: Settings, home: Path
) -> None:
    fake.repos[NAME] = whole()
    fake.repos[NAME].announced = {"model.safetensors": 10**18}
    ours = hub(fake, settings, home)
    plan = ours.plan(SPEC)
    with pytest.raises(ModelError, match=r"needs 1000000000\.0 GB of disk; .* HF_HOME"):
        ours.fetch(SPEC, plan, ignore)
    assert fake.fetched("model.safetensors") == []


@pytest.mark.fault(30)
@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_meanwhile_is_reported(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    ours = hub(fake, settings, home)
    plan = ours.plan(SPEC)
    kept_as = sha256(fake.repos[NAME].files["model.safetensors"]).hexdigest()
    blobs = next((home / "hub").glob("*/blobs"))
    (blobs / f"{kept_as}.inhouse.incomplete").symlink_to(FULL)
    with pytest.raises(ModelError, match=r"The disk is full; make room .* and run the command again"):
        ours.fetch(SPEC, plan, ignore)
    assert ours.here(SPEC) is None


def test_a_cache_that_cannot_be_written_is_reported(fake: FakeHub, settings: Settings, home: Path) -> None:
    fake.repos[NAME] = whole()
    (home / "hub").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be used"):
        hub(fake, settings, home).plan(SPEC)


@pytest.mark.parametrize("status", [500, 503, 407])
@pytest.mark.fault(30)
def test_an_ill_hub_is_a_hub_out_of_reach(fake: FakeHub, settings: Settings, home: Path, status: int) -> None:
    fake.status = status
    with pytest.raises(HubUnreachable, match=f"answers with error {status}"):
        hub(fake, settings, home).plan(SPEC)


@pytest.mark.parametrize(("status", "sentence"), [(429, "too many requests"), (403, "may not read"), (418, "refuses")])
def test_other_refusals(fake: FakeHub, settings: Settings, home: Path, status: int, sentence: str) -> None:
    fake.status = status
    with pytest.raises(ModelError, match=sentence):
        hub(fake, settings, home).plan(SPEC)


@pytest.mark.fault(30)
def test_a_refused_connection_is_reported_at_once(settings: Settings, home: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HubUnreachable, match="cannot be reached"):
            Hub(settings, endpoint, home / "hub").plan(SPEC)


def test_a_silent_hub_is_given_up(settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "REACH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HubUnreachable, match=r"cannot be reached|does not answer"):
            Hub(settings, endpoint, home / "hub").plan(SPEC)
