"""Records every REST call and every gateway frame in order."""

from dataclasses import dataclass, field

from tests.support.fakes.discord.state import Json


@dataclass(frozen=True)
class Call:
    """One REST call. `status` 0: no response was sent. `at` and `seconds`: arrival time and duration."""

    method: str
    route: str
    path: str
    status: int
    at: float
    seconds: float
    channel: str | None
    body: Json


@dataclass(frozen=True)
class Frame:
    """One gateway frame; `sent` by the fake, else received. `event` is '' except for dispatches (op 0)."""

    sent: bool
    op: int
    event: str
    data: object
    at: float
    session: str


@dataclass
class Log:
    """All calls and frames since the start."""

    calls: list[Call] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    def count(self, method: str, route: str, status: int | None = None, channel: str | None = None) -> int:
        """Counts the calls of a route ("/channels/{channel_id}/messages"), optionally by status or channel."""
        return sum(
            (call.method, call.route) == (method, route)
            and status in (None, call.status)
            and channel in (None, call.channel)
            for call in self.calls
        )

    def received(self, op: int) -> list[Frame]:
        """The client's frames with an opcode (1 heartbeat, 2 IDENTIFY, 3 presence, 6 RESUME)."""
        return [frame for frame in self.frames if not frame.sent and frame.op == op]
