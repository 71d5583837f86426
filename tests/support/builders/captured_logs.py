"""All that a process logs while a test runs, as `inhouse run` would write it."""

import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bot.observability.logs import OURS, QUIET, setup_logs


@contextmanager
def logs_at(level: str, form: str = "text", secrets: Iterable[str] = ()) -> Iterator[io.StringIO]:
    """What is logged from `level` on, until the block ends; then everything is as it was."""
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
