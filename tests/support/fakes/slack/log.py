"""Records every Web API call, every acknowledged envelope, and every Socket Mode frame."""

from dataclasses import dataclass, field

from tests.support.fakes.slack.state import Json


@dataclass(frozen=True)
class Call:
    """One call. `status` 0: no response was sent. `error`: of an ok: false. `at`, `seconds`: arrival time and
    duration."""

    method: str
    arguments: Json
    status: int
    error: str
    at: float
    seconds: float
    form: str
    token: str

    @property
    def channel(self) -> str:
        """The channel argument of the call, '' if none."""
        return str(self.arguments.get("channel") or self.arguments.get("channel_id") or "")


@dataclass(frozen=True)
class Ack:
    """One acknowledged envelope. `seconds`: since it was sent; `attempt` 0 is the first delivery; `late`: after the
    deadline, so that Slack ignores it; `kind`: events_api, slash_commands, interactive; `what`: the event's type (a
    message's subtype after a dot), the command or the interaction's type."""

    envelope_id: str
    event_id: str
    kind: str
    what: str
    seconds: float
    payload: Json | None
    attempt: int
    socket: int
    late: bool = False


@dataclass(frozen=True)
class Delivery:
    """One delivery of an envelope. `socket` 0: no client was connected."""

    envelope_id: str
    event_id: str
    kind: str
    what: str
    attempt: int
    socket: int
    at: float


@dataclass
class Log:
    """All records since the start."""

    calls: list[Call] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    pings: int = 0

    def count(
        self, method: str, *, status: int | None = None, error: str | None = None, channel: str | None = None
    ) -> int:
        """Counts the calls of a method, optionally by status, error ('' for ok) or channel."""
        return sum(
            call.method == method
            and status in (None, call.status)
            and error in (None, call.error)
            and channel in (None, call.channel)
            for call in self.calls
        )
