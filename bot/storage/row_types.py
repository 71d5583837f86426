"""What storage gives back and takes in beyond the shared messages. Plain data; nothing here reads or writes.

Times are Unix seconds. A record is a copy of what was stored when it was read.
"""

from dataclasses import dataclass

from bot.types.messages import ConversationKey, FinishReason, GenerationRequest, Reply, RequestStatus, Role, Usage


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn to be stored. `message_id`: the platform's id of the message; `author_id`, `author`: who sent it."""

    key: ConversationKey
    role: Role
    author_id: str
    author: str
    text: str
    message_id: str
    sent_at: float


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn as stored. An assistant's turn has the `message_id` of its question, and the request that it came from."""

    id: int
    role: Role
    author_id: str
    author: str
    text: str
    message_id: str
    sent_at: float
    request_id: str | None


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request and what became of it. `error` is '' unless it failed; `finished_at` is None until it ended."""

    request: GenerationRequest
    status: RequestStatus
    finish_reason: FinishReason | None
    usage: Usage | None
    error: str
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A part of an answer and how far it got.

    State: 'posting' (a first post is about to be tried), 'posted' (its platform id is known), 'ready' (the text is
    final and must still be shown), 'final' (it is shown), 'dropped' (it never will be). The asker has an id and a name,
    no rights; `tail` is not stored. `service_runs` is that of its request, 0 unless `unsettled` gave it.
    """

    reply: Reply
    state: str
    service_runs: int = 0
