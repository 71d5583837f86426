"""Tests `inhouse export`: all rows, or those of one user, as JSON lines."""

import json
import os
import stat
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.storage import Cursor, export
from bot.storage.export import ExportFilter, records
from bot.types.messages import ConversationKey, Person
from tests.cli.test_cli import ROOT
from tests.support.builders.cli import Inhouse
from tests.support.builders.databases import CHOSEN
from tests.support.builders.storage_rows import ELSEWHERE, KEY, answer, ask, asked, open_storage, part, said

pytest_plugins = ["tests.support.fixtures.cli", "tests.support.fixtures.databases"]

BEN = Person("2", "Ben")
ELSEWHERE_PLACE = ("discord", "guild", "channel", "")
SLACK = ConversationKey("slack", "team", "room", "")

pytestmark = pytest.mark.usefixtures("each_database", "talked")


@pytest.fixture
async def talked(home: Path, each_database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ann asks after Ben's message, Ben asks elsewhere, and a user with Ann's id is on Slack."""
    if url := CHOSEN.url(home / "state"):
        monkeypatch.setenv("INHOUSE_DATABASE_URL", url.get_secret_value())
    storage = await open_storage(home / "state")
    await storage.history.add(said("b0", "Ben's background", author=BEN))
    first = await ask(storage, "a1", "Ann's question: Grüße?")
    await answer(storage, first, "the answer to Ann", part(first, text="the part for Ann"))
    await storage.outbox.mark_delivered(part(first).reply_id)
    await storage.outbox.rate(part(first).reply_id, "2", True)
    for key, name in ((ELSEWHERE, "b1"), (SLACK, "s1")):
        author = BEN if key is ELSEWHERE else Person("1", "Somebody else")
        turns = [said(name, f"the question {name}", key=key, author=author)]
        request = replace(asked(name, key=key), author=author)
        await storage.inbox.accept(key, name, turns=turns, request=request)
        await answer(storage, request, f"the answer to {name}", part(request))
    await storage.history.set(KEY, "system", "Be kind.")
    await storage.cursors.save([Cursor(ELSEWHERE, "b1", 1.0)])
    await storage.close()


def found(home: Path, *places: tuple[str, ...], person: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    return list(records(home / "state", ExportFilter(places, person), CHOSEN.url(home / "state")))


def number(home: Path, *places: tuple[str, ...], person: tuple[str, str] | None = None) -> dict[str, int]:
    return dict(Counter(record["record"] for record in found(home, *places, person=person)))


def test_everything_is_exported_each_record_with_its_conversation(inhouse: Inhouse, home: Path) -> None:
    status, out, err = inhouse("export")
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines == found(home)
    assert err == "Exported 1 setting, 7 turns, 3 requests, 3 parts, 1 rating, 3 events, 1 cursor.\n"
    question = next(line for line in lines if line["record"] == "turn" and line["message_id"] == "a1")
    assert (question["platform"], question["workspace"], question["channel"], question["thread"]) == (
        *("discord", "guild", "channel", "thread"),
    )
    assert (question["role"], question["author"], question["text"]) == ("user", "Ann", "Ann's question: Grüße?")
    assert "Grüße" in out
    request = next(line for line in lines if line["record"] == "request")
    assert request["params"]["temperature"] == 0.1
    assert request["usage"]["prompt_tokens"] == 30


def test_a_place_is_a_conversation_or_the_beginning_of_one(home: Path) -> None:
    assert number(home, ("slack",)) == {"turn": 2, "request": 1, "part": 1, "event": 1}
    whole = {"setting": 1, "turn": 3, "request": 1, "part": 1, "rating": 1, "event": 1}
    assert number(home, ("discord", "guild", "channel", "thread")) == whole
    assert number(home, ("discord", "guild", "channel", "")) == {
        **{"turn": 2, "request": 1, "part": 1, "event": 1, "cursor": 1}
    }
    assert sum(number(home, ("discord",), ("slack",)).values()) == len(found(home))
    assert found(home, ("discord", "another")) == []


def test_a_person_gets_what_they_wrote_and_the_answers_to_it_and_nothing_of_others(home: Path) -> None:
    ann = found(home, person=("discord", "1"))
    assert [record["text"] for record in ann if record["record"] == "turn"] == [
        "Ann's question: Grüße?",
        "the answer to Ann",
    ]
    assert number(home, person=("discord", "1")) == {"turn": 2, "request": 1, "part": 1, "event": 1}
    assert number(home, person=("discord", "2")) == {"turn": 3, "request": 1, "part": 1, "rating": 1, "event": 1}
    assert number(home, ELSEWHERE_PLACE, person=("discord", "2")) == {"turn": 2, "request": 1, "part": 1, "event": 1}
    assert found(home, person=("discord", "3")) == []


def test_pages_give_every_record_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(home)
    for rows in (1, 2, 3):
        monkeypatch.setattr(export, "PAGE_ROWS", rows)
        assert found(home) == whole


async def test_it_works_beside_a_service_that_it_does_not_hold_up(home: Path) -> None:
    storage = await open_storage(home / "state")
    reading = records(home / "state", ExportFilter(), CHOSEN.url(home / "state"))
    assert next(reading)["record"] == "setting"
    await storage.history.forget(KEY)
    assert await storage.expiry.erase(), "nobody is reading, though not all was read"
    await ask(storage, "new")
    left = list(reading)
    assert "Ann's question: Grüße?" not in json.dumps(left, ensure_ascii=False)
    assert "new" in [record.get("message_id") for record in left]
    await storage.close()


def test_into_a_file_for_its_owner_alone(inhouse: Inhouse, home: Path) -> None:
    target = home / "ann.jsonl"
    status, out, err = inhouse(
        "export", "--out", str(target), "--person", "Discord:1", "--conversation", "discord/guild"
    )
    assert (status, out) == (0, "")
    assert err == "Exported 2 turns, 1 request, 1 part, 1 event.\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(target.read_text("utf-8").splitlines()) == 5
    status, _, err = inhouse("export", "--out", str(target), "--person", "discord:9")
    assert (status, len(target.read_text("utf-8").splitlines())) == (78, 5)
    assert "exists already" in err
    status, _, err = inhouse("export", "--out", str(target), "--person", "discord:9", "--force")
    assert (status, target.read_text("utf-8")) == (0, "")
    assert err == "Exported nothing: no stored message matches.\n"


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--person", "ann"), "--person must be discord:<id> or slack:<id>, not ann."),
        (("--conversation", "a channel"), "must be platform/workspace/channel/thread"),
        (("--conversation", "discord/1/2/3/4"), "must be platform/workspace/channel/thread"),
        (("--out", "nowhere/x.jsonl"), "is in a directory that does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_and_78(inhouse: Inhouse, words: tuple[str, ...], sentence: str) -> None:
    status, out, err = inhouse("export", *words)
    assert (status, out) == (78, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m bot.cli export | true",
        shell=True,
        executable="/bin/bash",
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == 0
