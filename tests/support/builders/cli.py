"""Types of the tests that run `inhouse` in their own process."""

import io
from collections.abc import Callable

Inhouse = Callable[..., tuple[int, str, str]]


class Typing(io.StringIO):
    """stdin that is a terminal."""

    def isatty(self) -> bool:
        return True
