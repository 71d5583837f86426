"""Redirect transformers' progress bars to a callback.

Inside `told`, transformers prints neither progress bars nor log lines; its earlier settings are restored afterwards.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from logging import CRITICAL

Tell = Callable[[int, int], None]

EVERY = 8
"""The callback receives every EVERY-th step, and the last one."""


@contextmanager
def told(tell: Tell) -> Iterator[None]:
    """Call `tell(done, total)` for each loop for which transformers would draw a progress bar."""
    from transformers.utils import logging

    def instead(_: Callable[..., object], words: tuple[object, ...], named: dict[str, object]) -> Steps:
        return Steps(words[0] if words else named.get("iterable"), tell)

    verbosity = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    before = logging.set_tqdm_hook(instead)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_tqdm_hook(before)
        logging.set_verbosity(verbosity)


class Steps:
    """Replacement for a tqdm bar around `items`."""

    def __init__(self, items: object, tell: Tell) -> None:
        self._items: Iterable[object] = items if isinstance(items, Iterable) else ()
        self._total = len(items) if isinstance(items, Sized) else 0
        self._tell = tell

    def __iter__(self) -> Iterator[object]:
        for done, item in enumerate(self._items, 1):
            yield item
            if self._total and (done % EVERY == 0 or done == self._total):
                self._tell(done, self._total)

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _: float = 1) -> None:
        """Ignore manual steps; only iteration is reported."""

    def close(self) -> None:
        """Do nothing: no bar was drawn."""
