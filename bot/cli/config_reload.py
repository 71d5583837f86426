"""Reload the configuration at SIGHUP while the service runs.

Applies new settings and catalog together. On any mistake it keeps the old ones and logs the mistake. Changed settings
that need a restart are logged.
"""

import asyncio
import logging

from bot.config.settings import Settings, load_settings, near_misses, secrets
from bot.models.catalog import Catalog
from bot.models.installed_models import InstalledModels
from bot.models.runtime_config import RuntimeConfig
from bot.observability.logs import setup_logs
from bot.observability.systemd_notify import Notifier
from bot.service.service import Service
from bot.types.errors import InhouseError

log = logging.getLogger(__name__)


class Reloads:
    """Reloads the configuration of one service on request. settings: those that the service started with."""

    def __init__(self, settings: Settings, service: Service, notifier: Notifier) -> None:
        self._secrets = set(secrets(settings))
        self._service, self._notifier = service, notifier
        self._wanted = asyncio.Event()

    def ask(self) -> None:
        """Request a reload; safe to call from a signal callback on the event loop."""
        self._wanted.set()

    async def keep_up(self) -> None:
        """Process reload requests until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with self._notifier.reloading():
                try:
                    await self._reload()
                except InhouseError as error:
                    log.error("The configuration was not reloaded, and the old one stays in use: %s", error)
                except Exception:  # a bug must not disable later reloads
                    log.exception("The configuration could not be reloaded, and the old one stays in use")

    async def _reload(self) -> None:
        """Read and apply the configuration. Raises InhouseError, which describes the mistake."""
        settings, catalog = await asyncio.to_thread(_read)
        need_restart = self._service.reload(settings, catalog)
        self._secrets |= set(secrets(settings))  # tokens change only at a restart, so the old ones stay in use
        setup_logs(settings.log_level, settings.log_format, self._secrets)
        log.info("The configuration was reloaded")
        for near_miss in near_misses():
            log.warning("%s", near_miss)
        if need_restart:
            log.warning("%s: changed; restart Inhouse to apply it", ", ".join(need_restart))


def _read() -> tuple[Settings, Catalog]:
    """Read the configuration and check that the service could start with it. Raises InhouseError."""
    settings = load_settings()
    catalog = Catalog.of(settings)
    InstalledModels(RuntimeConfig(settings, catalog)).locate(catalog.default)
    return settings, catalog
