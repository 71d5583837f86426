"""Records what the platform's users did, independently of the service, and what may be expected of it.

Each conversation has a unique word (`WORDS`) in all its texts; keys and message ids are easy to confuse on purpose.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from bot.types.messages import (
    ActionKind,
    ConversationKey,
    Event,
    IncomingMessage,
    MessageDeleted,
    MessageEdited,
    Person,
    Refused,
)
from tests.support.fakes.team import person
from tests.support.state_machine.recording_platform import RecordingPlatform

WORDS = {
    "kiwi": ConversationKey("scripted", "team", "1"),
    "plum": ConversationKey("scripted", "team", "11"),
    "lime": ConversationKey("scripted", "team", "1", "t"),
    "pear": ConversationKey("scripted", "other", "1"),
    "date": ConversationKey("scripted", "", "1"),
}
WORD_OF = {key: word for word, key in WORDS.items()}
KEYS = tuple(WORDS.values())
PEOPLE = ("ana", "ben", "cleo", "root")


@dataclass(slots=True)
class Question:
    """A message to the bot. `texts` are all its versions, newest last. `blows`: the count of
    ExpectedHistory.blows when it was sent."""

    event: int
    said: IncomingMessage
    texts: list[str]
    blows: int
    heard_before: bool  # the channel had a cursor, so backfill reads it
    edits: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # events that may stop or delete it


@dataclass(slots=True)
class Sweep:
    """A command that hides or deletes what was said before it in a conversation, by someone who may.

    certain: it surely reaches all questions that it affects. author_id: those of this author; all if ''.
    """

    event: int
    key: ConversationKey
    kind: str  # reset, forget, undo
    author_id: str
    certain: bool

    def affects(self, question: Question) -> bool:
        """Whether it may reach a question, the time of both aside."""
        return self.key == question.said.key and self.author_id in ("", question.said.author.id)


class ExpectedHistory:
    """All events of a run."""

    def __init__(self, platform: RecordingPlatform, began: float) -> None:
        self.platform = platform
        self.questions: list[Question] = []
        self.sweeps: list[Sweep] = []
        self.deletions: dict[tuple[ConversationKey, str], int] = {}
        self.forbidden: dict[int, str] = {}  # events of users who have no right to what they ask for
        self.remarks: list[IncomingMessage] = []  # messages that were not addressed to the bot
        self.blows = 0
        """How often the service was killed or its engine died; two of these end a request."""
        self.waits = False
        """Whether the clock ever advanced by more than a request may wait."""
        self.fails = False
        """Whether storage ever failed."""
        self._began, self._ids, self._events = began, Counter[tuple[str, str]](), 0

    def message(self, key: ConversationKey, who: str, words: str, *, early: bool, addressed: bool) -> IncomingMessage:
        """Makes a message. early: its time is before the previous message's."""
        self._ids[key.workspace, key.channel] += 1
        self._events += 1
        number = self._ids[key.workspace, key.channel]
        sent_at = self._began + self._events - (1.5 if early else 0)
        text = f"{WORD_OF[key]} {number} {words}".strip()
        return IncomingMessage(key, f"{number}", person(who), text, sent_at, addressed=addressed)

    def asked(self, event: int, said: IncomingMessage, *, heard_before: bool, well: bool) -> None:
        """Records a question. well: the engine runs; a dead one costs a request an attempt, too."""
        self.questions.append(Question(event, said, [said.text], self.blows - (not well), heard_before))

    def edited(self, event: int, question: Question, change: MessageEdited) -> None:
        """Records an edit of a question."""
        question.texts.append(change.text)
        question.edits.append(event)

    def deleted(self, event: int, question: Question) -> None:
        """Records the deletion of a question."""
        question.ends.append(event)
        self.deletions.setdefault((question.said.key, question.said.message_id), event)

    def commanded(self, event: int, key: ConversationKey, who: Person, name: str, what: str) -> None:
        """Records a command on a conversation, by SECURITY.md's table of rights.

        Managers reach all questions and others their own; only managers may forget all, or reset a channel; who began a
        thread may reset it, too. `what`: of forget.
        """
        manages = who.manages_channel or who.manages_workspace
        mine = name != "reset" and not (manages and (name != "forget" or what == "all"))
        if not manages and (what == "all" or (name == "reset" and not key.thread)):
            self.forbidden[event] = f"{name} {what} of {who.name}"
            return
        if name in ("reset", "forget", "undo"):
            certain = what != "last" and (manages or name != "reset")
            self.sweeps.append(Sweep(event, key, name, who.id if mine else "", certain))
        if name != "reset":
            for question in self.questions:
                here = question.said.key if name != "stop" or key.thread else replace(question.said.key, thread="")
                if here == key and (not mine or question.said.author == who):
                    question.ends.append(event)

    def pressed(self, event: int, question: Question, who: Person, kind: ActionKind) -> None:
        """Records the press of a button: Stop is for who asked, and for managers."""
        if kind is not ActionKind.STOP:
            return
        if who.manages_channel or who == question.said.author:
            question.ends.append(event)
        else:
            self.forbidden[event] = f"Stop by {who.name}"

    def of(self, key: ConversationKey) -> list[Question]:
        """The questions of a conversation."""
        return [question for question in self.questions if question.said.key == key]

    def find(self, key: ConversationKey, message_id: str) -> Question | None:
        """The question with this id."""
        return next((found for found in self.of(key) if found.said.message_id == message_id), None)

    def may_be_ended(self, question: Question) -> bool:
        """Whether some event may stop it, before or after it was sent."""
        return bool(question.ends) or any(
            sweep.kind != "reset" and sweep.affects(question) and self.platform.when(sweep.event) > question.event
            for sweep in self.sweeps
        )

    def is_deleted(self, question: Question) -> bool:
        """Whether it was deleted."""
        return (question.said.key, question.said.message_id) in self.deletions

    def hidden_from(self, earlier: Question, later: Question) -> bool:
        """Whether `earlier` must not be in the prompt of `later`: its removal was acknowledged before `later` was
        sent."""
        deleted = self.deletions.get((earlier.said.key, earlier.said.message_id))
        if deleted is not None and self.platform.when(deleted) <= later.event:
            return True
        return any(
            sweep.kind in ("reset", "forget")
            and sweep.certain
            and sweep.affects(earlier)
            and self.platform.when(earlier.event) <= sweep.event
            and self.platform.when(sweep.event) <= later.event
            for sweep in self.sweeps
        )

    def must_be_read(self, earlier: Question, later: Question) -> bool:
        """Whether `earlier` must be in the prompt of `later`."""
        return (
            earlier.said.sent_at < later.said.sent_at
            and self.platform.when(earlier.event) <= later.event
            and not isinstance(self.platform.outcomes.get(earlier.event), Refused)
            and not self.is_deleted(earlier)
            and not any(sweep.affects(earlier) for sweep in self.sweeps)
        )


def kind_of(event: Event) -> str:
    """A description for failure messages."""
    match event:
        case IncomingMessage():
            return f"message {event.message_id} {event.text!r}"
        case MessageEdited() | MessageDeleted():
            return f"{type(event).__name__} {event.message_id}"
    return repr(event)
