"""Reloads the configuration at SIGHUP while the service runs.

Applies the new settings and catalog as a whole; on any mistake the old ones stay and the log names it. Settings that
need a restart are named in the log.
"""

import asyncio
import logging

from bot.config.settings import Settings, load_settings, secrets
from bot.models.catalog import Catalog
from bot.models.installed_models import Shelf
from bot.models.runtime_config import Current
from bot.observability.logs import setup_logs
from bot.observability.systemd_notify import Notifier
from bot.service.service import Service
from bot.types.errors import InhouseError

log = logging.getLogger(__name__)


class Reloads:
    """Reloads one service, as often as it is asked to. `settings` are those that it started with."""

    def __init__(self, settings: Settings, service: Service, notifier: Notifier) -> None:
        self._secrets = set(secrets(settings))
        self._service, self._notifier = service, notifier
        self._wanted = asyncio.Event()

    def ask(self) -> None:
        """Have the configuration read again, soon."""
        self._wanted.set()

    async def keep_up(self) -> None:
        """Do as asked, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with self._notifier.reloading():
                try:
                    await self._reload()
                except InhouseError as error:
                    log.error("The configuration was not reloaded, and the old one stays in use: %s", error)
                except Exception:  # a bug of ours must not cost the next reload
                    log.exception("The configuration could not be reloaded, and the old one stays in use")

    async def _reload(self) -> None:
        """Raises InhouseError with what is wrong with the new configuration."""
        settings, catalog = await asyncio.to_thread(_read)
        late = self._service.reload(settings, catalog)
        self._secrets |= set(secrets(settings))  # the old ones are still in use
        setup_logs(settings.log_level, settings.log_format, self._secrets)
        log.info("The configuration was reloaded")
        if late:
            log.warning("%s: changed; restart Inhouse to apply it", ", ".join(late))


def _read() -> tuple[Settings, Catalog]:
    """A configuration with which the service could start, too."""
    settings = load_settings()
    catalog = Catalog.of(settings)
    Shelf(Current(settings, catalog)).locate(catalog.default)
    return settings, catalog
