"""Faults of the gateway that a test triggers: frames, close codes, silence, or lost connections.

They affect all connected clients, or the next ones that connect.
"""

from tests.support.fakes.discord.sessions import DISPATCH, INVALID_SESSION, RECONNECT, Connection, Session


class GatewayFaults:
    """The sessions and connections of a gateway, and the faults that a test can trigger."""

    def __init__(self) -> None:
        self.drop_acks = False
        self._sessions: dict[str, Session] = {}
        self._connections: set[Connection] = set()
        self._refused_connections = 0
        self._refused_identifies: list[int] = []

    @property
    def online(self) -> list[Session]:
        """The sessions with a connection."""
        return [session for session in self._sessions.values() if session.connection is not None]

    def reconnect(self) -> None:
        """Op 7: asks clients to reconnect and resume."""
        self.send(op=RECONNECT)

    def invalidate(self, resumable: bool = False) -> None:
        """Op 9: invalidates the session, unless it may be resumed."""
        if not resumable:
            self.forget_sessions()
        self.send(op=INVALID_SESSION, data=resumable)

    def close(self, code: int) -> None:
        """Closes with one of Discord's codes (4000-4014), after queued frames."""
        for connection in self._connections:
            connection.given_close = code
            connection.close(code)

    def abort(self) -> None:
        """Aborts the connections without a close frame."""
        for connection in list(self._connections):
            connection.abort()

    def freeze(self, answer_close: bool = True) -> None:
        """Stops sending frames. Without `answer_close` the connection is half-open: a client's close gets no answer
        either."""
        for connection in self._connections:
            connection.answers_close = answer_close
            connection.moving.clear()

    def thaw(self) -> None:
        """Resumes sending, queued frames included."""
        for connection in self._connections:
            connection.answers_close = True
            connection.moving.set()

    def forget_sessions(self) -> None:
        """Makes all sessions impossible to resume: a RESUME gets op 9."""
        self._sessions = {session.id: session for session in self.online}
        for session in self._sessions.values():
            session.left_at = float("-inf")

    def refuse_connections(self, times: int) -> None:
        """Answers the next attempts to connect with 502."""
        self._refused_connections = times

    def refuse_identify(self, code: int, times: int = 1) -> None:
        """Answers the next IDENTIFYs with a close code."""
        self._refused_identifies = [code] * times

    def send(self, op: int = DISPATCH, event: str = "", data: object = None) -> None:
        """Sends any frame to all connected clients; an event (op 0) gets a sequence number of the session."""
        for connection in self._connections:
            if op == DISPATCH and connection.session is not None:
                connection.session.dispatch(event, data)
            elif op != DISPATCH:
                connection.send({"op": op, "d": data, "t": None, "s": None})
