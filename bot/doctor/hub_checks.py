"""Check the Hugging Face hub: whether it is reachable, accepts the token, and gives access to the configured models.

Only asks about configured models that are not installed. Downloads nothing.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from bot.config.settings import Settings
from bot.doctor.model_checks import configured_models
from bot.models.hub_client import Hub
from bot.models.hub_errors import HubUnreachable
from bot.models.model_spec import ModelSpec
from bot.models.pull import installed, wheel_of
from bot.types.display_names import one_line
from bot.types.errors import ConfigError, ModelError
from bot.types.findings import Finding, State, from_error, ok


def account(settings: Settings) -> Iterator[Finding]:
    """Check the token with the hub, or report that none is set."""
    if _offline():
        yield ok("hub", "not contacted, since HF_HUB_OFFLINE is set; downloaded models still work")
        return
    hub = Hub(settings)
    try:
        name = hub.account()
    except HubUnreachable as error:
        yield from_error("hub", State.WARNING, str(error))
    except ModelError as error:
        yield from_error("hub token", State.WRONG, str(error))
    else:
        found = f"valid, account {one_line(name)}" if name else "none is set; only gated models need one"
        yield ok("hub token", found)


def access(settings: Settings) -> Iterator[Finding]:
    """Check that each configured model that is not installed can be downloaded."""
    if _offline():
        return
    for spec in _missing(settings):
        check = f"access to {spec.name}"
        try:
            Hub(settings).check_access(spec)
        except HubUnreachable as error:
            if wheel_of(spec) is not None:
                yield ok(check, "the hub cannot be reached, but the Python package index also has this model")
                continue
            yield from_error(check, State.WARNING, str(error))
        except ModelError as error:
            yield from_error(check, State.WRONG, str(error))
        else:
            yield ok(check, f"{spec.source} can be downloaded")


def clock() -> dict[str, tuple[str, str | None]]:
    """The hub's URL and the proxy to it, for `network_checks.clock`; empty if HF_HUB_OFFLINE is set."""
    if _offline():
        return {}
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    return {"the hub": (constants.ENDPOINT, proxy)}


def _missing(settings: Settings) -> list[ModelSpec]:
    try:
        return [spec for spec in configured_models(settings) if spec.repo and not installed(spec, settings)]
    except ConfigError:  # reported by model_checks.catalog
        return []


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
