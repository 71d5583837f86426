"""transformers' progress bars, told to a function instead of drawn.

In: a function that takes how many steps are done, and of how many. Promise: while `told` is entered the library prints
neither bars nor log lines; afterwards it is as it was before.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from logging import CRITICAL

Tell = Callable[[int, int], None]

EVERY = 8
"""One in so many steps is told."""


@contextmanager
def told(tell: Tell) -> Iterator[None]:
    """Inside, every loop that transformers would draw a bar for is told to `tell` (done, total)."""
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
    """Stands in for a progress bar around `items`."""

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
        """A step that is taken without the loop; only loops are told."""

    def close(self) -> None:
        """Nothing was drawn."""
