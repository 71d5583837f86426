"""The one error tree: every error that a person may read is raised as one of these.

`str(error)` is one sentence that says what happened and what to do about it. Foreign exceptions are mapped to these
once, at the boundary that imports the foreign library.
"""

EX_CONFIG = 78
"""The exit status of a mistake that a restart cannot cure (sysexits.h)."""


class InhouseError(Exception):
    """Anything that Inhouse reports to a person."""


class ConfigError(InhouseError):
    """A mistake in the configuration; the process ends with EX_CONFIG."""


class StateLocked(ConfigError):
    """Another instance holds the state directory."""


class StateFromElsewhere(ConfigError):
    """The state was made by a version of Inhouse that knows other tables."""


class StorageError(InhouseError):
    """The state could not be read or written; what was not stored was not acknowledged."""


class ModelError(InhouseError):
    """A model cannot be found, fetched or loaded."""


class RequestRefused(InhouseError):
    """A request was not accepted, and nothing of it was stored."""


class QueueFull(RequestRefused):
    """So many requests wait, of everybody or of this person, that one more is not taken."""


class EngineError(InhouseError):
    """The engine could not do what was asked."""


class RequestFailed(EngineError):
    """This one request failed; the engine goes on with the others."""


class EngineDied(EngineError):
    """The engine's process is gone with everything that it was generating; it can be started again."""


class AdapterError(InhouseError):
    """A platform did not do what was asked."""


class FatalAdapterError(AdapterError):
    """The platform refuses us for good (bad token, missing intent or scope): reconnecting does not help."""


class RetryLater(AdapterError):
    """The platform asks for patience; the same call may succeed after `seconds`."""

    def __init__(self, seconds: float, reason: str = "the platform is busy") -> None:
        super().__init__(f"{reason}; again in {seconds:.0f} s")
        self.seconds = seconds


class Rejected(AdapterError):
    """The platform will never do this call (no permission, message gone); trying again is useless."""


class Gone(Rejected):
    """The message, or the channel it was in, was deleted: nothing is to be shown any more."""


class OutcomeUnknown(AdapterError):
    """The call may or may not have taken effect: look before repeating it."""
