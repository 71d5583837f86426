"""Captures what a process logs during a test, in the format of `inhouse run`."""

import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bot.observability.logs import OURS, QUIET, setup_logs


@contextmanager
def logs_at(level: str, form: str = "text", secrets: Iterable[str] = ()) -> Iterator[io.StringIO]:
    """Captures log records from `level` on, and restores the logging configuration afterwards."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, (*OURS, *QUIET))]
    before = [(logger, logger.level) for logger in loggers]
    handlers, stream = root.handlers, io.StringIO()
    try:
        setup_logs(level, form, secrets, stream)
        yield stream
    finally:
        root.handlers = handlers
        for logger, number in before:
            logger.setLevel(number)
