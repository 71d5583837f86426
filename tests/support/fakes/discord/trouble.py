"""What can go wrong with the gateway, as methods that a test calls on it.

In: a test's wish. Out: frames, close codes, silence or a cut line for every client that is connected at that moment, or
for the next ones that come.
"""

from tests.support.fakes.discord.sessions import DISPATCH, INVALID_SESSION, RECONNECT, Connection, Session


class Trouble:
    """The sessions and connections of a gateway, to be disturbed."""

    def __init__(self) -> None:
        self.drop_acks = False
        self._sessions: dict[str, Session] = {}
        self._connections: set[Connection] = set()
        self._refused_connections = 0
        self._refused_identifies: list[int] = []

    @property
    def online(self) -> list[Session]:
        """The sessions that have a connection now."""
        return [session for session in self._sessions.values() if session.connection is not None]

    def reconnect(self) -> None:
        """Op 7: ask clients to connect anew and resume."""
        self.send(op=RECONNECT)

    def invalidate(self, resumable: bool = False) -> None:
        """Op 9: the session is over, or may be resumed."""
        if not resumable:
            self.forget_sessions()
        self.send(op=INVALID_SESSION, data=resumable)

    def close(self, code: int) -> None:
        """Close with one of Discord's codes (4000-4014), after what is on its way."""
        for connection in self._connections:
            connection.given_close = code
            connection.close(code)

    def abort(self) -> None:
        """Cut the connections without a close frame."""
        for connection in list(self._connections):
            connection.abort()

    def freeze(self, answer_close: bool = True) -> None:
        """Send no frame any more. Without `answer_close` the line is dead: a client's close is not answered either."""
        for connection in self._connections:
            connection.answers_close = answer_close
            connection.moving.clear()

    def thaw(self) -> None:
        """Go on, with what was held back."""
        for connection in self._connections:
            connection.answers_close = True
            connection.moving.set()

    def forget_sessions(self) -> None:
        """No session can be resumed: a RESUME gets op 9."""
        self._sessions = {session.id: session for session in self.online}
        for session in self._sessions.values():
            session.left_at = float("-inf")

    def refuse_connections(self, times: int) -> None:
        """Answer the next attempts to connect with 502."""
        self._refused_connections = times

    def refuse_identify(self, code: int, times: int = 1) -> None:
        """Answer the next IDENTIFYs with a close code."""
        self._refused_identifies = [code] * times

    def send(self, op: int = DISPATCH, event: str = "", data: object = None) -> None:
        """Send any frame to everybody who is connected; an event (op 0) gets its place in the session."""
        for connection in self._connections:
            if op == DISPATCH and connection.session is not None:
                connection.session.dispatch(event, data)
            elif op != DISPATCH:
                connection.send({"op": op, "d": data, "t": None, "s": None})
