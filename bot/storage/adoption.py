"""Moves what a host that has ended held to another one."""

from collections.abc import Sequence

from sqlalchemy import Connection, or_, select, update

from bot.storage.backend import wake_others
from bot.storage.tables import outbox, requests
from bot.types.messages import RequestStatus


def adopt(connection: Connection, of: Sequence[str], host: str) -> None:
    """Move the unfinished requests and undelivered texts of hosts that have ended to `host`, inside a transaction.

    What they were writing waits again, one attempt later, unless another host took it.
    """
    theirs, unfinished = requests.c.host.in_(of), requests.c.status.in_((RequestStatus.WAITING, RequestStatus.RUNNING))
    running = requests.c.status == RequestStatus.RUNNING
    taken_by_them = requests.c.taker.in_(of)
    waiting = {"status": RequestStatus.WAITING, "taker": ""}
    connection.execute(  # not handed over to them yet, so they have shown nothing
        update(requests)
        .where(running, taken_by_them, ~theirs)
        .values(**waiting, service_runs=requests.c.service_runs - 1)
    )
    connection.execute(update(requests).where(running, ~taken_by_them, theirs).values(host=requests.c.taker))
    connection.execute(
        update(requests).where(running, taken_by_them, theirs).values(**waiting, attempts=requests.c.attempts + 1)
    )
    undelivered = requests.c.request_id.in_(select(outbox.c.request_id).where(outbox.c.state == "ready"))
    connection.execute(
        update(requests).where(theirs, requests.c.host != host, or_(unfinished, undelivered)).values(host=host)
    )
    wake_others(connection)
