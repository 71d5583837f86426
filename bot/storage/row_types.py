"""Plain data types of storage that the shared messages do not cover.

Times are Unix seconds. A record is a copy of the stored row at the time of the read.
"""

from dataclasses import dataclass

from bot.types.messages import (
    ConversationKey,
    FinishReason,
    GenerationRequest,
    Picture,
    Reply,
    RequestStatus,
    Role,
    Usage,
)


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn to store. `message_id`: the platform's message id; `author_id`, `author`: the sender.

    `reply_to`: the platform's id of the message that it replies to, or ''. `edited_at`: of its text, 0 if never edited.
    """

    key: ConversationKey
    role: Role
    author_id: str
    author: str
    text: str
    message_id: str
    sent_at: float
    reply_to: str = ""
    pictures: tuple[Picture, ...] = ()
    edited_at: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A stored turn. An assistant's turn has the `message_id` of its question and the id of its request."""

    id: int
    role: Role
    author_id: str
    author: str
    text: str
    message_id: str
    sent_at: float
    request_id: str | None
    reply_to: str = ""


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request and its outcome. `error` is '' unless it failed; `finished_at` is None until it ended."""

    request: GenerationRequest
    status: RequestStatus
    finish_reason: FinishReason | None
    usage: Usage | None
    error: str
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A part of an answer and its delivery state.

    state: 'posting' (the first post is being tried), 'posted' (the platform id is known), 'ready' (the final text is
    pending), 'final' (the final text is shown), 'dropped' (it will never be shown). The asker has an id and a name, no
    permissions; `tail` is not stored. `service_runs`: of its request; only `undelivered` sets it.
    """

    reply: Reply
    state: str
    service_runs: int = 0
