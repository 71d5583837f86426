"""Redirect transformers' progress bars to a callback.

Inside `progress_bars_to`, transformers prints no progress bars and no log lines; its settings are restored at the end.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from logging import CRITICAL

OnProgress = Callable[[int, int], None]

EVERY = 8
"""The callback receives every EVERY-th step, and the last one."""


@contextmanager
def progress_bars_to(on_progress: OnProgress) -> Iterator[None]:
    """Call `on_progress(done, total)` for each loop for which transformers would draw a progress bar."""
    from transformers.utils import logging

    def instead(_: Callable[..., object], words: tuple[object, ...], named: dict[str, object]) -> ReportedLoop:
        return ReportedLoop(words[0] if words else named.get("iterable"), on_progress)

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


class ReportedLoop:
    """Replacement for a tqdm bar around `items`."""

    def __init__(self, items: object, on_progress: OnProgress) -> None:
        self._items: Iterable[object] = items if isinstance(items, Iterable) else ()
        self._total = len(items) if isinstance(items, Sized) else 0
        self._on_progress = on_progress

    def __iter__(self) -> Iterator[object]:
        for done, item in enumerate(self._items, 1):
            yield item
            if self._total and (done % EVERY == 0 or done == self._total):
                self._on_progress(done, self._total)

    def __enter__(self) -> "ReportedLoop":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _: float = 1) -> None:
        """Ignore manual steps; only iteration is reported."""

    def close(self) -> None:
        """Do nothing: no bar was drawn."""
