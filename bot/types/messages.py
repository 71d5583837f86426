"""Every data type that crosses a boundary between the parts. No behaviour, nothing of ours imported.

All types are frozen: a part that wants to change one makes another. Times are Unix seconds unless the name says
otherwise.
"""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who speaks in a turn, in the chat template's words."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # end-of-sequence token or stop string
    LENGTH = "length"  # max_tokens reached
    ABORT = "abort"  # somebody asked for it
    ERROR = "error"


class RequestStatus(StrEnum):
    """The life of a request, as stored."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestKind(StrEnum):
    """What a request wants of its message: an answer, another answer, or more of the answer."""

    ANSWER = "answer"
    REGENERATE = "regenerate"
    CONTINUE = "continue"


class ActionKind(StrEnum):
    """The buttons under a reply."""

    STOP = "stop"
    REGENERATE = "regenerate"
    CONTINUE = "continue"
    RERUN = "rerun"  # as REGENERATE, offered when the question was edited
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """The name of one conversation. Everything is read and written by the whole key; an absent part is ''."""

    platform: str
    workspace: str
    channel: str
    thread: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody on a platform. `manages_channel` and `manages_workspace` are what the platform says of them, here.

    `groups` are the ids of their roles. What is stored of a person is the id and the name.
    """

    id: str
    name: str
    manages_channel: bool = False
    manages_workspace: bool = False
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message, read as text by its adapter."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """Somebody said something. `addressed` is true if the bot is meant. `sent_at` orders the history of a conversation.

    `context` holds messages that belong before this one and that the bot may not have seen (a replied-to message, the
    one that a thread starts from, ambient messages), oldest first. `remark` is a sentence to show above the answer (a
    file that could not be read, how to go on in a thread).
    """

    key: ConversationKey
    message_id: str
    author: Person
    text: str
    sent_at: float
    addressed: bool
    attachments: tuple[Attachment, ...] = ()
    reply_to: str = ""
    context: tuple["IncomingMessage", ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True)
class IncomingCommand:
    """Somebody gave a command. `args` are as typed, by option name; `event_id` is the platform's id of this event."""

    key: ConversationKey
    event_id: str
    actor: Person
    name: str
    args: dict[str, str]
    sent_at: float


@dataclass(frozen=True, slots=True)
class IncomingAction:
    """Somebody pressed a button under the reply `reply_id`."""

    key: ConversationKey
    event_id: str
    actor: Person
    reply_id: str
    kind: ActionKind


@dataclass(frozen=True, slots=True)
class MessageEdited:
    """The author changed a message."""

    key: ConversationKey
    message_id: str
    author: Person
    text: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """A message is gone from the platform, so it must go here too."""

    key: ConversationKey
    message_id: str


Event = IncomingMessage | IncomingCommand | IncomingAction | MessageEdited | MessageDeleted


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event is on disk (or known already); an answer, if any is due, comes as a Reply."""

    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A short text in answer to the event itself. `private`: for the actor's eyes only, where the platform can."""

    text: str
    private: bool = True
    attachment: Attachment | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The event was understood and is not acted upon; `text` says why, in one sentence."""

    text: str


Outcome = Accepted | Notice | Refused


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of an autocomplete list: what is shown, and what is sent."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is picked. temperature 0 is greedy; top_k 0 switches top-k off; no seed means a random one."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.1
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing said in a conversation. `author` is a display name, '' for the assistant and the system."""

    role: Role
    author: str
    text: str
    message_id: str
    created_at: float


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """An answer that is owed. `wait_left_s`: how many seconds it may still wait in the queue.

    `remark` is a sentence to show above the answer. `service_runs`: how many runs of the service were killed while they
    wrote or showed it; `attempts` counts these and the deaths of the engine.
    """

    request_id: str
    key: ConversationKey
    message_id: str
    author: Person
    model: str
    params: SamplingParams
    attempts: int
    accepted_at: float
    wait_left_s: float
    kind: RequestKind = RequestKind.ANSWER
    remark: str = ""
    service_runs: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine is asked to continue: turns oldest first, the last one being the question.

    `system` is the system prompt ('' for none). `prefix` is the beginning of the answer, to be continued ('' normally).
    """

    system: str
    turns: tuple[Turn, ...]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one generation cost, in tokens and seconds. `dropped_turns`: how many old turns did not fit the window."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    context_window: int
    dropped_turns: int


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """New text of an answer. The last delta of a request carries `finish_reason` and `usage`."""

    request_id: str
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of an answer as it should be shown now.

    `committed` never changes any more, `tail` may (text still being written, a wait line, a cursor). A reply with
    neither is not posted. `reply_id` is at most 25 characters (Discord's nonce). `question_id` is the message that is
    answered and `asker` its author. `platform_id` is the platform's id of the message, once it was posted.
    """

    reply_id: str
    request_id: str
    key: ConversationKey
    part: int
    question_id: str
    asker: Person
    committed: str
    tail: str = ""
    final: bool = False
    buttons: tuple[ActionKind, ...] = ()
    platform_id: str | None = None
    attachment: Attachment | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
