"""Data types that cross module boundaries; no behaviour, no imports from this project.

All types are frozen: change one with `dataclasses.replace`. Times are Unix seconds unless the name says otherwise.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """Author role of a turn, as chat templates name it."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # end-of-sequence token or stop string
    LENGTH = "length"  # max_tokens reached
    ABORT = "abort"  # on request of a user
    ERROR = "error"


class RequestStatus(StrEnum):
    """Status of a request. Storage keeps STARTING and REQUEUED as WAITING and RUNNING, whichever was stored last."""

    WAITING = "waiting"
    STARTING = "starting"  # taken from the queue; its model may have to be loaded first
    RUNNING = "running"
    REQUEUED = "requeued"  # waits again: the engine died, or its model did not load
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestKind(StrEnum):
    """What to generate for a message: an answer, another answer, or a continuation of the answer."""

    ANSWER = "answer"
    REGENERATE = "regenerate"
    CONTINUE = "continue"


class ActionKind(StrEnum):
    """Buttons below a reply."""

    STOP = "stop"
    REGENERATE = "regenerate"
    CONTINUE = "continue"
    RERUN = "rerun"  # same as REGENERATE, shown after the question was edited
    THOUGHTS = "thoughts"  # show what the model thought, to who presses it
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """Identifies one conversation; storage looks up the whole key. An absent part is ''."""

    platform: str
    workspace: str
    channel: str
    thread: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """A user of a platform; storage keeps only the id and the name.

    `manages_channel` and `manages_workspace` are the permissions that the platform reports here. `groups` are role ids.
    `is_bot`: a bot, webhook or workflow that INHOUSE_ALLOW_BOTS lists.
    """

    id: str
    name: str
    manages_channel: bool = False
    manages_workspace: bool = False
    groups: tuple[str, ...] = ()
    is_bot: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a message, decoded to text by the adapter. `remark`: a sentence about what is damaged in it, or ''."""

    name: str
    text: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a message, re-encoded by `bot.platforms.pictures`. `kind`: its media type. Sizes in pixels."""

    name: str
    kind: str
    data: bytes = field(repr=False)
    width: int
    height: int


class PictureTokens(NamedTuple):
    """What stands for a picture in a prompt: token ids, the first and last of them control tokens, and text around."""

    before: str
    ids: tuple[int, ...]
    after: str


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message from a user. `addressed`: it is meant for the bot. `sent_at` orders the conversation's history.

    `reply_to`: the message that it replies to: an answer of the bot or one in `context`; without text, the
    one that it asks about. `context`: earlier messages of others that the bot may not have seen (the chain of replies,
    a thread's first message, ambient messages), oldest first. `remark`: a sentence to show above the answer (a file
    could not be read, how to continue in a thread). `asker`: who asked for an answer, if that is not the author.
    `edited_at`: when its text was last edited, 0 if never.
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
    asker: Person | None = None
    pictures: tuple[Picture, ...] = ()
    edited_at: float = 0.0


@dataclass(frozen=True, slots=True)
class IncomingCommand:
    """A command from a user. `args`: unchecked values by option name. `event_id`: the platform's id of the event."""

    key: ConversationKey
    event_id: str
    actor: Person
    name: str
    args: dict[str, str]
    sent_at: float


@dataclass(frozen=True, slots=True)
class IncomingAction:
    """A press of a button below the reply `reply_id`."""

    key: ConversationKey
    event_id: str
    actor: Person
    reply_id: str
    kind: ActionKind


@dataclass(frozen=True, slots=True)
class IncomingForget:
    """A request to delete one stored message and its answer. `author_id`: who wrote the message, by the platform.

    `message_id`: a question, or a message of ours, which stands for the question that it answers.
    """

    key: ConversationKey
    event_id: str
    actor: Person
    message_id: str
    author_id: str


@dataclass(frozen=True, slots=True)
class MessageEdited:
    """The author edited a message at `edited_at`; an edit that is older than the stored text changes nothing."""

    key: ConversationKey
    message_id: str
    author: Person
    text: str
    attachments: tuple[Attachment, ...] = ()
    pictures: tuple[Picture, ...] = ()
    edited_at: float = 0.0


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """A message was deleted on the platform, so it must be deleted from storage."""

    key: ConversationKey
    message_id: str


Event = IncomingMessage | IncomingCommand | IncomingAction | IncomingForget | MessageEdited | MessageDeleted


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event is stored, was stored before, or needs no answer; an answer comes later as a Reply."""

    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A short direct response to an event. `private`: visible only to the actor, where the platform supports it."""

    text: str
    private: bool = True
    attachment: Attachment | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The event was valid but is refused; `text` is the reason, one sentence."""

    text: str


Outcome = Accepted | Notice | Refused


@dataclass(frozen=True, slots=True)
class Choice:
    """An autocomplete entry: displayed label and submitted value."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. temperature 0 is greedy; top_k 0 and min_p 0 are off; seed None is random.

    think: how much the model thinks before it answers: off, low, high, or '' for its default. think_tokens: most tokens
    of thoughts, besides the max_tokens of the answer; thoughts that need more take them from these.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.1
    presence_penalty: float = 0.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None
    think: str = ""
    think_tokens: int = 0

    @property
    def most_tokens(self) -> int:
        """Most tokens of thoughts and answer together."""
        return self.max_tokens + self.think_tokens


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation. `author` is a display name, '' for the assistant and the system.

    `pictures`: those that are to be shown to the model; the text names all that the message had.
    """

    role: Role
    author: str
    text: str
    message_id: str
    created_at: float
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for an answer. `wait_left_s`: seconds that it may still wait in the queue.

    `remark`: a sentence to show above the answer. `service_runs`: runs of the service that were killed while they wrote
    or showed the answer. `attempts`: service_runs plus engine failures. `number`: order of acceptance over all hosts, 0
    until it is stored.
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
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Input of the engine: the turns, oldest first; the last one is the question.

    `system`: system prompt, '' for none. `prefix`: beginning of an answer to continue, usually ''.
    """

    system: str
    turns: tuple[Turn, ...]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of one generation, in tokens and seconds.

    dropped_turns, dropped_pictures: old ones that did not fit the context window. cached_tokens: 0 also if a server
    does not tell. defused: control tokens in the texts were broken up.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    context_window: int
    dropped_turns: int
    defused: bool = False
    dropped_pictures: int = 0


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """New text of an answer. The last delta of a request has `finish_reason` and `usage`.

    `reasoning`: new text of the model's thoughts, which are not part of the answer. `retracts`: the text before this
    delta was part of the thoughts, too.
    """

    request_id: str
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    reasoning: str = ""
    retracts: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of an answer, in its current state.

    `committed` is a prefix that no longer changes; `tail` may change (unfinished text, a queue status, a cursor). A
    reply with neither is not posted. `reply_id`: at most 25 characters (Discord's nonce). `question_id`: the answered
    message; `asker`: its author. `platform_id`: the platform's message id, once posted.
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
