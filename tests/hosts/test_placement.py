"""Tests which host holds a new request."""

import pytest

from bot.hosts import placement
from bot.hosts.placement import Placement
from bot.storage import Host, Unfinished
from bot.types.messages import ConversationKey, GenerationRequest, Person, SamplingParams


def key(channel: str) -> ConversationKey:
    """A conversation."""
    return ConversationKey("scripted", "team", channel)


def host(name: str, slots: int) -> Host:
    """A host that is alive."""
    return Host(name, 1, 100.0, 10.0, frozenset({"worker"}), slots, "small", frozenset(), None, holds=False)


def row(channel: str, held_by: str, taker: str = "") -> Unfinished:
    """An unfinished request."""
    ana = Person("id-ana", "Ana")
    request = GenerationRequest(
        request_id=f"request in {channel}",
        key=key(channel),
        message_id="message-1",
        author=ana,
        model="small",
        params=SamplingParams(),
        attempts=0,
        accepted_at=1.0,
        wait_left_s=600.0,
    )
    return Unfinished(request, bool(taker), held_by, taker, "", edited=False)


def placed(slots: dict[str, int], rows: list[Unfinished], *channels: str, before: tuple[Unfinished, ...] = ()) -> str:
    """The hosts that get the next requests of these channels, one after the other, on the host `a`."""
    placement = Placement.empty("a")
    placement.note_hosts(slots["a"], [host(name, count) for name, count in slots.items() if name != "a"])
    placement.note_requests(before)
    placement.note_requests(rows)
    return " ".join(placement.choose(key(channel)) for channel in channels)


A2_B2 = {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("slots", "rows", "channels", "chosen"),
    [
        pytest.param(A2_B2, [], "x y z", "a a b", id="here, as long as it begins at once"),
        pytest.param(A2_B2, [], "v w x y z", "a a b b a", id="where the fewest wait, when all are busy"),
        pytest.param({"a": 1, "b": 3}, [], "u v w x y z", "a b b b a b", id="by the share of its slots"),
        pytest.param({"a": 0, "b": 1}, [], "x y", "b b", id="never where no answers are written"),
        pytest.param({"a": 0, "b": 0}, [], "x y", "a a", id="here, while nobody writes answers"),
        pytest.param({"a": 2}, [], "x y z", "a a a", id="here, if it is alone"),
        pytest.param(A2_B2, [row("x", "b")], "x", "b", id="where the conversation's earlier question is"),
        pytest.param(A2_B2, [row("x", "a", "b")], "x", "b", id="where the earlier question is being answered"),
        pytest.param(A2_B2, [row("x", "gone")], "x", "a", id="not where a host is dead"),
        pytest.param({"a": 2, "b": 0}, [row("x", "b")], "x", "b", id="in order, even if others write the answer"),
        pytest.param(A2_B2, [row("v", "a"), row("w", "a")], "x", "b", id="not where all slots are taken"),
        pytest.param(A2_B2, [row("v", "b", "a"), row("w", "a")], "x", "b", id="what it took counts for the taker"),
    ],
)
def test_a_request_is_placed(slots: dict[str, int], rows: list[Unfinished], channels: str, chosen: str) -> None:
    assert placed(slots, rows, *channels.split()) == chosen


def test_a_conversation_goes_on_where_it_was_if_that_host_can_begin() -> None:
    was_there = (row("x", "b"),)
    assert placed(A2_B2, [], "x", before=was_there) == "b"
    assert placed(A2_B2, [row("v", "b"), row("w", "b")], "x", before=was_there) == "a"


def test_the_hosts_of_a_bounded_number_of_conversations_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "REMEMBERED", 2)
    known = Placement.empty("a")
    known.note_hosts(1, [host("b", 9)])
    for channel in ("x", "y", "z"):
        known.note_requests([row(channel, "b")])
    known.note_requests([])
    assert [known.choose(key(channel)) for channel in ("z", "y")] == ["b", "b"]
    assert known.choose(key("x")) == "a"
    assert len(known.last) <= 3
