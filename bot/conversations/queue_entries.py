"""The statuses of a request in the queue, and what the queue keeps of each."""

from dataclasses import dataclass

from bot.types.messages import GenerationRequest, RequestStatus

WAITING = frozenset({RequestStatus.WAITING, RequestStatus.REQUEUED})
"""Not taken by the worker; these count against the limits."""
TAKEN = frozenset({RequestStatus.STARTING, RequestStatus.RUNNING})
"""Taken by the worker; no other request of the conversation starts."""
ENDED = frozenset({RequestStatus.FINISHED, RequestStatus.FAILED, RequestStatus.CANCELLED})

TRANSITIONS = {
    RequestStatus.WAITING: {RequestStatus.STARTING, RequestStatus.FAILED, RequestStatus.CANCELLED},
    RequestStatus.STARTING: {
        RequestStatus.RUNNING,
        RequestStatus.REQUEUED,
        RequestStatus.FAILED,
        RequestStatus.CANCELLED,
    },
    RequestStatus.RUNNING: {RequestStatus.REQUEUED, *ENDED},
    RequestStatus.REQUEUED: {RequestStatus.STARTING, RequestStatus.FAILED, RequestStatus.CANCELLED},
}
"""Allowed changes of a request's status. An ended request is no longer in the queue."""


@dataclass(frozen=True, slots=True)
class Place:
    """Queue position, 1 being next, and estimated seconds; None before the first measurement."""

    number: int
    seconds: float | None


@dataclass(slots=True)
class Entry:
    """A request in the queue."""

    request: GenerationRequest
    order: int  # of arrival
    deadline: float  # while it waits; on the monotonic clock
    status: RequestStatus = RequestStatus.WAITING
    stop_requested: bool = False  # while it runs
    host: str = ""  # another one that holds it, '' for this one
    lent: bool = False  # to `host`, while it is handed over
