"""Tests which users and channels are served, and that SECURITY.md shows the table of rights."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.config.settings import Settings
from bot.types.messages import Accepted, ActionKind, ConversationKey, Notice, Person, Refused
from bot.types.rights import ACT_OF_BUTTON, NOT_SERVED, RIGHTS, Act, Who, is_served, may
from tests.support.builders.service import run_service

HERE = ConversationKey("discord", "server", "channel", "thread")
ANA = Person("ana", "Ana", groups=("helpers", "drivers"))
IDS = st.sampled_from(["ana", "helpers", "drivers", "server", "channel", "thread", "other", "nobody"])
MINE = {"ana", "helpers", "drivers", "server", "channel", "thread"}


def served(allow: str = "", deny: str = "", key: ConversationKey = HERE) -> bool:
    settings = Settings(allow=allow, deny=deny)
    return is_served(settings.allow, settings.deny, key, ANA)


@pytest.mark.parametrize("name", sorted(MINE))
def test_a_person_a_role_a_server_a_channel_and_a_thread_can_be_named(name: str) -> None:
    assert served(allow=f"discord:{name}")
    assert not served(deny=f"discord:{name}")
    assert not served(allow=f"slack:{name}")
    assert served(deny=f"slack:{name}")


@given(st.frozensets(IDS), st.frozensets(IDS))
def test_who_is_denied_is_not_served_and_where_some_are_allowed_the_others_are_not(
    allow: frozenset[str], deny: frozenset[str]
) -> None:
    allowed, denied = (",".join(f"discord:{name}" for name in names) for names in (allow, deny))
    assert served(allowed, denied) == (not deny & MINE and (not allow or bool(allow & MINE)))


def test_a_direct_message_is_in_no_server_and_that_is_no_name() -> None:
    direct = ConversationKey("discord", "", "dm")
    assert served(key=direct)
    assert not served(allow="discord:server", key=direct)


async def test_who_is_not_served_gets_no_answer_and_no_command(tmp_path: Path) -> None:
    denied = frozenset({("scripted", "id-eve"), ("scripted", "secret")})
    async with run_service(tmp_path, deny=denied) as setup:
        assert await setup.team.says("eve", "hello") == Accepted()
        assert await setup.team.elsewhere(channel="secret").says("ana", "hello there") == Accepted()
        assert await setup.team.command("help", who="eve") == Refused(NOT_SERVED)
        assert isinstance(await setup.team.command("help", who="ana"), Notice)
        answer = await setup.team.asks("ana", "good morning")
        for kind in answer.first.buttons:
            assert await setup.team.presses(answer.first, kind, who="eve") == Refused(NOT_SERVED)
        assert setup.engine.questions() == ["good morning"]


def test_security_md_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "SECURITY.md").read_text("utf-8")
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    shown = {row[1]: row[3] for row in cells if len(row) == 6 and row[1] in set(Act)}
    assert shown == {act.value: who.value for act, who in RIGHTS.items()}


def test_every_act_and_every_button_has_a_right() -> None:
    assert set(RIGHTS) == set(Act)
    assert set(ACT_OF_BUTTON) == set(ActionKind)


@pytest.mark.parametrize("act", list(Act))
def test_each_group_includes_the_ones_with_more_rights(act: Act) -> None:
    admins = {("discord", "listed")}
    people = {
        "stranger": Person("stranger", ""),
        "owner": Person("owner", ""),
        "manager": Person("manager", "", manages_channel=True),
        "admin": Person("admin", "", manages_workspace=True),
        "listed": Person("listed", ""),
    }
    allowed = {name for name, each in people.items() if may(act, each, "discord", admins, {"owner"})}
    expected = {
        Who.EVERYONE: set(people),
        Who.OWNERS: {"owner", "manager", "admin", "listed"},
        Who.CHANNEL: {"manager", "admin", "listed"},
        Who.ADMINS: {"admin", "listed"},
    }
    assert allowed == expected[RIGHTS[act]]
    assert may(act, people["listed"], "slack", admins) == (RIGHTS[act] is Who.EVERYONE)
