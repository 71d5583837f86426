"""Opens the storage, which a standby may wait for."""

import asyncio
import logging

from bot.config.settings import Settings
from bot.observability.systemd_notify import Notifier
from bot.storage import Storage

log = logging.getLogger(__name__)


async def open_storage(settings: Settings, stopping: asyncio.Event, notifier: Notifier) -> Storage | None:
    """Open the storage, as a standby once no other host is alive; None if `stopping` is set before.

    Raises the errors of `Storage.open`.
    """
    loop, holders = asyncio.get_running_loop(), asyncio.Queue[str]()

    def wait_for(names: str) -> None:  # on another thread
        loop.call_soon_threadsafe(holders.put_nowait, names)

    standby = wait_for if settings.standby else None
    opening = asyncio.create_task(Storage.open(settings.state_dir, settings.database_url, standby=standby))
    stopped = asyncio.create_task(stopping.wait())
    notifying = asyncio.create_task(_stand_by(holders, notifier))
    try:
        await asyncio.wait([opening, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (opening, stopped, notifying):
            task.cancel()  # no effect on one that is done
        await asyncio.gather(opening, stopped, notifying, return_exceptions=True)
    return None if opening.cancelled() else opening.result()


async def _stand_by(holders: asyncio.Queue[str], notifier: Notifier) -> None:
    """Log and notify for whom this host stands by, once it waits."""
    names = await holders.get()
    log.info("Standing by: %s uses the database. This host takes over when no other one is alive.", names)
    await notifier.keep_updated(lambda: f"standing by for {names}", lambda: True)
