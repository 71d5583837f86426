"""Exception hierarchy for all errors that are shown to users.

`str(error)` is one sentence: what happened and what to do. Modules that import a foreign library map its exceptions to
these types.
"""

EX_CONFIG = 78
"""Exit status for errors that a restart cannot fix (sysexits.h)."""


class InhouseError(Exception):
    """Base class of all errors that are shown to users."""


class ConfigError(InhouseError):
    """Invalid configuration; the process exits with EX_CONFIG."""


class StateLocked(ConfigError):
    """Another instance holds the lock of the state directory."""


class StateFromElsewhere(ConfigError):
    """Another version of Inhouse, with a different database schema, wrote the state."""


class StorageError(InhouseError):
    """Reading or writing the state failed; an event that was not stored was not acknowledged."""


class ModelError(InhouseError):
    """A model cannot be found, downloaded or loaded."""


class RequestRefused(InhouseError):
    """A request was refused before anything was stored."""


class QueueFull(RequestRefused):
    """The queue is full, in total or for this user."""


class EngineError(InhouseError):
    """The engine failed."""


STILL_WRITTEN = "That answer is still being written; stop it first."
"""The RequestRefused of another answer to a question."""
TOO_LONG = "The message and the system prompt take"
"""Beginning of the RequestFailed of a question that does not fit the context window."""


class RequestFailed(EngineError):
    """One request failed; the engine continues with the others."""


class CannotSee(RequestFailed):
    """The model refuses pictures; the same request without them may be tried."""


class EngineDied(EngineError):
    """The engine process exited and its running requests are lost; it can be restarted.

    external: nothing that the engine computed ended it, so no request is to blame: another process or the kernel sent
    SIGKILL or SIGTERM, the machine had been suspended, or the engine was not running when the request came. The
    kernel's out-of-memory killer sends SIGKILL, too, and a request may have taken that memory. So a caller must count
    external deaths as well, against a larger bound, or such a request would be repeated for ever.
    """

    def __init__(self, reason: str, external: bool = False) -> None:
        super().__init__(reason)
        self.external = external


class ServerLost(EngineDied):
    """One server failed under a request; the engine goes on with the others."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, external=True)


class NoServer(EngineDied):
    """No server of the engine can be used; none has worked on the request."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, external=True)


class AdapterError(InhouseError):
    """A platform call failed."""


class FatalAdapterError(AdapterError):
    """A permanent refusal by the platform (bad token, missing intent or scope); reconnecting does not help."""


class RetryLater(AdapterError):
    """Rate limit or temporary failure; the same call may succeed after `seconds`."""

    def __init__(self, seconds: float, reason: str = "the platform is busy") -> None:
        super().__init__(f"{reason}; again in {seconds:.0f} s")
        self.seconds = seconds


class NotSent(RetryLater):
    """No call was made yet: our own rate limit, or no connection. The platform refused nothing."""


class Rejected(AdapterError):
    """A permanent failure of this call (no permission, message deleted); do not retry."""


class Gone(Rejected):
    """The message or its channel was deleted; show nothing more there."""


class OutcomeUnknown(AdapterError):
    """The call may or may not have taken effect; check before retrying."""
