"""Checks all guarantees once the service is idle: compares the platform, the database and the expected history.

Raises AssertionError with all that is known about the failure.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from bot.replies.delivery import VOID
from bot.replies.renderer import INTERRUPTED
from bot.replies.replies import GIVEN_UP as NOT_SHOWN
from bot.replies.replies import SHOWN_AGAIN
from bot.types.engine import EngineRequest
from bot.types.messages import Accepted, ConversationKey, FinishReason, Notice, Refused, Role
from tests.support.fakes.scripted_platform import Fault, Posted
from tests.support.fakes.team import ADMINS, person
from tests.support.state_machine.expected_history import WORD_OF, WORDS, ExpectedHistory, Question
from tests.support.state_machine.faulty_disk import Stored
from tests.support.state_machine.recording_platform import NEVER, RecordingPlatform
from tests.support.state_machine.service import MachineSetup

GIVEN_UP = {"I was stopped three times": 3, "The model's process ended": 2}
"""Errors of answers that are given up, and how many kills or engine deaths each needs."""
WAITED = "This waited longer than"
STORAGE = "My storage failed"
UNSEEN = {Fault.REJECTED, Fault.GONE}
"""Faults after which a platform may not show a reply."""


class Invariants:
    """Checks the service's guarantees."""

    def __init__(self, expected: ExpectedHistory, platform: RecordingPlatform, setup: MachineSetup) -> None:
        self._expected, self._platform, self._setup = expected, platform, setup

    def read(self, request: EngineRequest) -> None:
        """Checks a prompt: turns of one conversation in the platform's order, without deleted ones."""
        last = request.prompt.turns[-1]
        (asked,) = [found for found in self._expected.questions if last.text in found.texts]
        known = [self._expected.find(asked.said.key, turn.message_id) for turn in request.prompt.turns]
        for turn, question in zip(request.prompt.turns, known, strict=True):
            self._of_one_conversation(asked, turn.text)
            assert question is not None, f"{turn} was no question"
            assert not self._expected.hidden_from(question, asked), f"{turn} was taken away, and is read for {asked}"
        times = [turn.created_at for turn in request.prompt.turns]
        assert times == sorted(times), "the history is not in the platform's order"
        for earlier in self._expected.of(asked.said.key):
            if self._expected.must_be_read(earlier, asked):
                assert earlier in known, f"{earlier} is not read for {asked}"
        for before, turn in zip((None, *request.prompt.turns), request.prompt.turns, strict=False):
            if turn.role is Role.ASSISTANT:
                assert before is not None
                assert before.message_id == turn.message_id, "an answer does not follow its question"

    def bounds(self, size: int, per_user: int, running: int) -> None:
        """Checks that the numbers of open requests, in total and per user, are within the limits."""
        open_ = self._setup.rows("SELECT * FROM requests WHERE status IN ('waiting', 'running')")
        assert len(open_) <= size + running, f"{len(open_)} requests are open: {list(map(dict, open_))}"
        for who, number in Counter(row["author_id"] for row in open_).items():
            assert number <= per_user + running, f"{who} has {number} open requests"

    def kept(self) -> None:
        """Checks all guarantees of an idle service."""
        assert self._setup.is_intact()
        requests = self._setup.rows("SELECT * FROM requests")
        by_question: defaultdict[tuple[str, str], list[Stored]] = defaultdict(list)
        for row in requests:
            by_question[WORD_OF[_key(row)], row["message_id"]].append(row)
        posts: defaultdict[str, list[Posted]] = defaultdict(list)
        for post in self._platform.posted:
            posts[post.reply.request_id].append(post)
            self._right_place(post)
        strangers = posts.keys() - {row["request_id"] for row in requests}
        assert not strangers, f"these answer nothing that is stored: {[posts[each] for each in strangers]}"
        for question in self._expected.questions:
            made = by_question.pop((WORD_OF[question.said.key], question.said.message_id), [])
            self._accepted(question, made)
            for row in made:
                self._answered(question, row, posts[row["request_id"]])
        assert not by_question, f"nobody asked this: {list(map(tuple, by_question.values()))}"
        for event, what in self._expected.forbidden.items():
            assert not isinstance(self._platform.outcomes.get(event), Notice), f"it was done without right: {what}"
        self._history()

    def _accepted(self, question: Question, made: Sequence[Stored]) -> None:
        """Checks that a question is stored completely or not at all, and that acknowledged ones are stored."""
        outcome = self._platform.outcomes.get(question.event)
        if isinstance(outcome, Refused) or self._is_refused(question):  # a crash may come before the outcome is sent
            stored = [*made, *self._turns_of(question)]
            assert not stored, f"it was refused, and stored: {stored} {self._about(question)}"
            return
        read_back = question.heard_before and question.said.key not in self._platform.gone
        owed = self._platform.redelivers or read_back or isinstance(outcome, Accepted)
        first = [row for row in made if row["kind"] == "answer"]
        dropped_unseen = not made and self._expected.is_deleted(question)
        assert dropped_unseen or not owed or len(first) == 1, f"{len(first)} requests: {self._about(question)}"

    def _is_refused(self, question: Question) -> bool:
        row = f"{_channel_of(question)} AND identity = 'refused {question.said.message_id}'"
        return bool(self._setup.rows(f"SELECT * FROM inbox WHERE {row}"))

    def _turns_of(self, question: Question) -> Sequence[Stored]:
        turns = f"{_channel_of(question)} AND thread = '{question.said.key.thread}'"
        return self._setup.rows(f"SELECT * FROM turns WHERE {turns} AND message_id = '{question.said.message_id}'")

    def _answered(self, question: Question, row: Stored, posts: Sequence[Posted]) -> None:
        """Checks for one final reply, one message per part, or one clear error with a cause."""
        about = self._about(question, row, posts)
        entitled = {question.said.author.id, *(person(name).id for name in ADMINS)}
        assert row["kind"] == "answer" or row["author_id"] in entitled, f"it was repeated without right: {about}"
        assert row["status"] in ("finished", "failed", "cancelled"), f"it has no end: {about}"
        reason = FinishReason(row["finish_reason"])
        text = _plain(_whole(post) for post in posts if post.text != VOID)
        hit = self._platform.hit[row["request_id"]]
        for number in Counter(post.reply.reply_id for post in posts).values():
            assert number == 1 or Fault.REJECTED in hit, f"it was posted {number} times: {about}"
        self._has_cause(question, row, reason, about)
        by_file = any(post.text.startswith(INTERRUPTED) for post in posts)
        assert not by_file or self._expected.blows - question.blows >= 2, f"it is a file for no reason: {about}"
        unseen = hit & UNSEEN or question.said.key in self._platform.gone or any(post.deleted for post in posts)
        forgotten = any(sweep.kind == "forget" and sweep.affects(question) for sweep in self._expected.sweeps)
        if unseen or self._expected.is_deleted(question) or forgotten:
            return
        assert posts, f"nothing is shown: {about}"
        assert all(post.reply.final for post in posts), f"a message is not final: {about}"
        parts = [post.reply.part for post in posts if post.text != VOID]
        assert sorted(parts) == list(range(len(parts))), f"parts are missing: {about}"
        wanted = ["and more of it"] if row["kind"] == "continue" else [f"You said: {words}" for words in question.texts]
        kills = self._expected.blows - question.blows
        if text.endswith(_plain([NOT_SHOWN])) and kills > SHOWN_AGAIN:
            return  # each time it was shown, the service was killed
        if reason is FinishReason.STOP:
            assert any(text.endswith(_plain([words])) for words in wanted), f"it is not the answer: {about}"
        elif reason is FinishReason.ERROR:
            assert text.endswith(_plain([row["error"]])), f"the error is not told: {about}"
        elif reason is FinishReason.ABORT:
            assert text.endswith("Stopped.") or any(text in _plain([words]) for words in wanted), f"odd: {about}"

    def _has_cause(self, question: Question, row: Stored, reason: FinishReason, about: "_About") -> None:
        """Checks that the finish reason has a cause."""
        error: str = row["error"]
        blows = self._expected.blows - question.blows
        if reason is FinishReason.ABORT:
            assert self._expected.may_be_ended(question), f"nobody stopped it: {about}"
        elif reason is FinishReason.ERROR and error:
            caused = (
                any(error.startswith(given_up) and blows >= least for given_up, least in GIVEN_UP.items())
                or (error.startswith(WAITED) and self._expected.waits)
                or (error.startswith(STORAGE) and self._expected.fails)
                or ("prompt does not fit" in error and any("unlucky" in text for text in question.texts))
            )
            assert caused, f"it failed for no reason: {about}"
        elif reason is FinishReason.STOP:
            assert "poison" not in question.texts[0] or row["kind"] == "continue", f"it should have failed: {about}"

    def _history(self) -> None:
        """Checks that every turn belongs to its conversation, and that no deleted text is stored."""
        for row in self._setup.rows("SELECT * FROM turns"):
            question = self._expected.find(_key(row), row["message_id"])
            assert question is not None, f"a turn of nobody: {dict(row)}"
            self._of_one_conversation(question, row["text"])
            steps = [question.event, *question.edits]
            orderly = all(self._platform.when(one) <= two for one, two in pairwise(steps))
            orderly &= all(self._platform.when(step) != NEVER for step in steps)
            orderly &= isinstance(self._platform.outcomes.get(question.event), Accepted)
            # edits have no order of their own, so an earlier one that is delivered again replaces a later one
            orderly &= all(self._platform.deliveries[edit] == 1 for edit in question.edits[:-1])
            known = question.texts[-1:] if orderly else question.texts
            assert row["role"] != "user" or row["text"] in known, f"not its text: {dict(row)} {self._about(question)}"
        stored = [row["text"] for row in self._setup.rows("SELECT text FROM turns")]
        stored += [row["committed"] for row in self._setup.rows("SELECT committed FROM outbox")]
        for question in self._expected.questions:
            deleted = self._expected.deletions.get((question.said.key, question.said.message_id))
            if deleted is not None and self._platform.when(deleted) != NEVER:
                for text in question.texts:
                    copies = [each for each in stored if re.search(rf"{re.escape(text)}\b", each)]
                    assert not copies, f"deleted, and still stored: {copies} {self._about(question)}"

    def _of_one_conversation(self, question: Question, text: str) -> None:
        found = set(re.findall(r"[a-z]+", text)) & WORDS.keys()
        assert found <= {WORD_OF[question.said.key]}, f"{text!r} crossed into {question.said.key}"

    def _right_place(self, post: Posted) -> None:
        question = self._expected.find(post.reply.key, post.reply.question_id)
        assert question is not None, f"it answers nobody: {post}"
        for text in post.history:
            self._of_one_conversation(question, text)

    def _about(self, question: Question, row: Stored | None = None, posts: Sequence[Posted] = ()) -> "_About":
        return _About(lambda: self._told(question, row, posts))

    def _told(self, question: Question, row: Stored | None, posts: Sequence[Posted]) -> str:
        lines = [repr(question), f"outcome: {self._platform.outcomes.get(question.event)}"]
        if row is not None:
            lines += [f"request: {dict(row)}", f"hit by: {self._platform.hit[row['request_id']]}"]
            outbox = self._setup.rows("SELECT * FROM outbox")
            lines += [f"outbox: {dict(each)}" for each in outbox if each["request_id"] == row["request_id"]]
        lines += [f"{post.id}, part {post.reply.part}, final {post.reply.final}: {post.history}" for post in posts]
        return "\n".join(["", *lines])


class _About:
    """A failure's description, computed only when it is printed."""

    def __init__(self, tell: Callable[[], str]) -> None:
        self._tell = tell

    def __str__(self) -> str:
        return self._tell()


def _key(row: Stored) -> ConversationKey:
    return ConversationKey(row["platform"], row["workspace"], row["channel"], row["thread"])


def _channel_of(question: Question) -> str:
    key = question.said.key
    return f"platform = '{key.platform}' AND workspace = '{key.workspace}' AND channel = '{key.channel}'"


def _whole(post: Posted) -> str:
    """A message, with its file in place of the sentence that announces it."""
    file = post.reply.attachment
    return post.text.replace(INTERRUPTED, file.text) if file else post.text


def _plain(texts: Iterable[str]) -> str:
    return "".join("".join(texts).split())  # a word may be split over two messages
