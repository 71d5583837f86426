"""Chooses the host that holds a new request: one that can begin at once, and that knows the conversation if possible.

A model answers faster where the conversation's keys and values are still cached.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bot.storage import Host, Unfinished
from bot.types.messages import ConversationKey

REMEMBERED = 10_000
"""Conversations whose last host is remembered."""


@dataclass(slots=True)
class Placement:
    """What this host, `this`, knows of the load of all. slots: how many answers each alive one writes at once."""

    this: str
    slots: dict[str, int]
    load: Counter[str]
    unfinished: dict[ConversationKey, str]
    last: OrderedDict[ConversationKey, str]

    @classmethod
    def empty(cls, this: str) -> "Placement":
        """Before the first look at the others."""
        return cls(this, {}, Counter(), {}, OrderedDict())

    def note_hosts(self, own_slots: int, others: Iterable[Host]) -> None:
        """Note which hosts write answers."""
        self.slots = {self.this: own_slots} | {host.name: host.slots for host in others}

    def note_requests(self, rows: Sequence[Unfinished]) -> None:
        """Note who holds which unfinished request."""
        self.load = Counter(row.taker or row.host for row in rows)
        self.unfinished = {row.request.key: row.taker or row.host for row in rows}
        for key, host in self.unfinished.items():
            self.last[key] = host
            self.last.move_to_end(key)
        while len(self.last) > REMEMBERED:
            self.last.popitem(last=False)

    def choose(self, key: ConversationKey) -> str:
        """The name of the host that is to hold the next request of a conversation."""
        able = {name: slots for name, slots in self.slots.items() if slots}
        before = self.unfinished.get(key)
        if before in self.slots:
            chosen = before  # it answers one after the other
        elif not able:
            chosen = self.this
        else:
            free = {name for name, slots in able.items() if self.load[name] < slots}
            known = self.last.get(key)
            if known in free:
                chosen = known
            elif self.this in free:
                chosen = self.this
            else:
                chosen = min(able, key=lambda name: (self.load[name] / able[name], name != self.this, name))
        self.load[chosen] += 1  # until the next look
        self.unfinished[key] = self.last[key] = chosen
        return chosen
