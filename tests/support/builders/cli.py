"""Types for tests that run `inhouse` in the test's process."""

import io
from collections.abc import Callable

Inhouse = Callable[..., tuple[int, str, str]]


class Typing(io.StringIO):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        return True
