"""What is configured at this moment: settings and the catalog that they ask for, swapped as one while the service runs.

In: a whole, validated pair. Out: the same pair, to whoever looks; and, at a swap, the variables that were changed but
are only read at the start. Whoever holds a `Current` looks into it each time, and keeps nothing of it.
"""

from bot.config.settings import TOKENS, Settings, variable
from bot.models.catalog import Catalog

AT_THE_START = (
    *TOKENS,
    "discord_proxy",
    "slack_api_url",
    "slack_command",
    "http",
    "state_dir",
    "cache_dir",
    "device",
)
"""Settings that are read once: tokens, how the platforms are reached and we are, paths, and the device."""


class Current:
    """Settings and catalog, as they are now."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings, self.catalog = settings, catalog

    def swap(self, settings: Settings, catalog: Catalog) -> list[str]:
        """Go by these from now on, but keep what is read at the start; the variables that differ in that, sorted."""
        kept = {name: getattr(self.settings, name) for name in AT_THE_START if name in Settings.model_fields}
        changed = [variable(name) for name, value in kept.items() if getattr(settings, name) != value]
        self.settings, self.catalog = settings.model_copy(update=kept), catalog
        return sorted(changed)
