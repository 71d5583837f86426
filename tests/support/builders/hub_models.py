"""Builds a small model on the fake Hub, and the calls that download it."""

import json
from pathlib import Path

from bot.config.settings import Settings, load_settings
from bot.models.file_download import PullProgress
from bot.models.hub_client import Hub
from bot.models.model_spec import ModelSpec
from tests.support.fakes.hub import FakeHub, Repo

NAME = "acme/chatty"
SPEC = ModelSpec(name="chatty", repo=NAME, licence="MIT")
CHUNK = 10 << 20
"""Bytes; huggingface_hub writes downloads in pieces of this size."""


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


def hub(fake: FakeHub, settings: Settings, home: Path) -> Hub:
    return Hub(settings, fake.endpoint, home / "hub")


def ignore(_: PullProgress) -> None:
    pass


def pull(hub: Hub) -> Path:
    return hub.fetch(SPEC, hub.plan(SPEC), ignore)


def signed_in(token: str) -> Settings:
    return load_settings(hf_token=token)
