"""Hold the current settings and catalog, which a reload swaps together while the service runs.

Users of `RuntimeConfig` must read its attributes each time they need a value, and must not keep copies.
"""

from bot.config.settings import TOKENS, Settings, variable
from bot.models.catalog import Catalog

NEEDS_RESTART = (
    *TOKENS,
    "discord_proxy",
    "slack_api_url",
    "slack_command",
    "http",
    "state_dir",
    "standby",
    "roles",
    "cache_dir",
    "device",
    "engine",
    "engine_args",
    "engine_urls",
    "engine_ca",
    "engine_salts",
)
"""Settings that are only read at the start: tokens, addresses, paths, the device and the engine."""


class RuntimeConfig:
    """The settings and catalog in use."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings, self.catalog = settings, catalog
        self.elsewhere: frozenset[str] = frozenset()
        """Names of the models that other hosts can load."""

    def swap(self, settings: Settings, catalog: Catalog) -> list[str]:
        """Replace settings and catalog, except the settings in NEEDS_RESTART.

        Returns the sorted names of the variables that changed but need a restart.
        """
        kept = {name: getattr(self.settings, name) for name in NEEDS_RESTART}
        changed = [variable(name) for name, value in kept.items() if getattr(settings, name) != value]
        self.settings, self.catalog = settings.model_copy(update=kept), catalog
        return sorted(changed)
