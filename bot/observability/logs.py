"""Write the records of all loggers, ours and the libraries', as text or JSON to stderr, with tokens redacted.

A record is one line; an exception adds its traceback without local variables, which may hold users' text. All output
passes `Redactor`, which removes the configured tokens and all text that looks like a token, also in exceptions of
libraries. The text of users and models is never logged: callers log ids and lengths (in `extra`), and libraries, which
log whole messages at debug, are limited to info. `Throttle` suppresses repeated records and counts them. If stderr is
systemd's journal, lines begin with their priority, without timestamp and colours.
"""

import json
import logging
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO
from urllib.parse import quote

import structlog
from structlog.typing import Processor

REDACTED = "[redacted]"

TOKEN_SHAPES = re.compile(
    r"""
      xox[a-z](?:\.xox[a-z])?-[\w-]{8,}            # Slack: bot, user, refresh, workflow
    | x(?:app|wfp)-[\w-]{8,}                       # Slack: app level
    | hf_(?:oauth_|jwt_)?[A-Za-z0-9]{16,}[\w.-]*   # Hugging Face
    | api_org_[A-Za-z0-9]{16,}                     # Hugging Face, of an organisation
    | (?<![\w-])[\w-]{23,30}\.[\w-]{5,7}\.[\w-]{27,}   # Discord: user id, time, signature
    | (?<=/webhooks/)\d+/[\w%=-]{16,}              # Discord: what answers an interaction, in a URL
    | (?<=/interactions/)\d+/[\w%=-]{16,}
    | (?<=hooks\.slack\.com/)[\w/%=-]{16,}         # Slack: what answers a command, in a URL
    | (?<=[?&]ticket=)[\w%.=-]+                    # Slack: what opens a socket, in a URL
    | (?<=://)[^\s/@:]*:[^\s/@]+(?=@)               # a proxy's user and password, in a URL
    """,
    re.VERBOSE,
)

QUIET = ("asyncio", "filelock", "httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "sqlalchemy", "alembic")
"""Libraries that log every step at info; they are limited to warning."""

OURS = ("bot", "adapters", "inhouse")
"""Our own loggers, the only ones that log at debug."""

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Minimum logging level and its syslog priority, highest first; lower levels get 7."""


class Redactor:
    """Redacts tokens in text: the given ones, also JSON-escaped or URL-quoted, and all matches of TOKEN_SHAPES."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in (secret, json.dumps(secret)[1:-1], quote(secret, ""))}
        # Longest first, so that a shorter secret does not match inside a longer one.
        known = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        self._known = re.compile(known) if known else None

    def __call__(self, text: str) -> str:
        if self._known:
            text = self._known.sub(REDACTED, text)
        return TOKEN_SHAPES.sub(REDACTED, text)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Redacts the rendered record, which includes the output of all processors."""

    def __init__(self, redact: Redactor, first: list[Processor], renderer: Processor, *, journal: bool) -> None:
        super().__init__(
            foreign_pre_chain=first,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
        self._redact, self._journal = redact, journal

    def format(self, record: logging.LogRecord) -> str:
        text = self._redact(super().format(record))
        return prefixed(text, record.levelno) if self._journal else text


@dataclass(slots=True)
class _Repeats:
    """The count of equal records since `began`. Not the record itself, whose traceback would keep objects alive."""

    began: float
    logger: str
    level: int
    count: int = 0
    message: str = ""


class Throttle:
    """Passes the first BURST equal records per WINDOW_S and counts the others. Not thread-safe.

    Records are equal if logger, level, rendered message, extra values and exception (type, text, place) are equal.
    """

    BURST, WINDOW_S = 10, 10.0
    MOST = 1000
    """Maximum number of distinct records in memory; beyond it, the oldest window ends early."""

    def __init__(self) -> None:
        self._repeats: OrderedDict[int, _Repeats] = OrderedDict()  # the oldest window first

    def passes(self, record: logging.LogRecord) -> bool:
        """Count a record and return whether it may be written."""
        key = _identity(record)
        repeats = self._repeats.setdefault(key, _Repeats(time.monotonic(), record.name, record.levelno))
        repeats.count += 1
        if repeats.count == self.BURST + 1:
            repeats.message = record.getMessage()
        return repeats.count <= self.BURST

    def ended(self, *, early: bool = False) -> Iterator[logging.LogRecord]:
        """End the expired windows, or all if `early`; yield a summary record for each that dropped records."""
        while self._repeats:
            oldest = next(iter(self._repeats.values()))
            over = early or time.monotonic() >= oldest.began + self.WINDOW_S or len(self._repeats) > self.MOST
            if not over:
                return
            self._repeats.popitem(last=False)
            if (dropped := oldest.count - self.BURST) > 0:
                text = (
                    f"{dropped} more lines like this one within {self.WINDOW_S:.0f} s were left out: {oldest.message}"
                )
                yield logging.LogRecord(oldest.logger, oldest.level, __file__, 0, text, None, None)


_PLAIN = frozenset(vars(logging.makeLogRecord({})))
"""Attributes of every LogRecord; all others come from `extra`."""


def _identity(record: logging.LogRecord) -> int:
    error = record.exc_info[1] if record.exc_info else None
    place = error.__traceback__ if error else None
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    raised = (
        (type(error), str(error), place and (place.tb_frame.f_code.co_filename, place.tb_lineno)) if error else None
    )
    extra = [(name, repr(value)) for name, value in vars(record).items() if name not in _PLAIN]
    return hash((record.name, record.levelno, record.getMessage(), raised, *extra))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records. If one cannot be rendered, writes only its origin; the stdlib prints the unredacted arguments."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._throttle = Throttle()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record unless it is throttled; `logging` calls it with the handler's lock held."""
        for summary in self._throttle.ended():
            super().emit(summary)
        try:
            passes = self._throttle.passes(record)
        except Exception:  # the record cannot be rendered; handleError reports it
            passes = True
        if passes:
            super().emit(record)

    def close(self) -> None:
        """Write the pending summaries of throttled records."""
        for summary in self._throttle.ended(early=True):
            super().emit(summary)
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the stdlib's name
        reason = sys.exc_info()[0]
        name = reason.__name__ if reason else "no reason known"
        try:
            self.stream.write(f"a log line is lost: {record.name}, {record.filename}:{record.lineno}: {name}\n")
        except (OSError, ValueError):
            return  # stderr itself is closed, so there is nowhere left to report


def setup_logs(level: str, form: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Configure logging to `stream` (default stderr) at `level` (debug, info, warning, error), as text or json.

    secrets: token values to redact. Calling it again replaces the configuration.
    """
    stream = stream or sys.stderr
    journal = leads_to_journal(stream)
    first: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
    ]
    if not journal:
        first.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    if form == "json":
        first.append(structlog.processors.format_exc_info)
    handler = _Handler(stream)
    renderer = _renderer(form, colors=stream.isatty())
    handler.setFormatter(_Formatter(Redactor(secrets), first, renderer, journal=journal))
    root = logging.getLogger()
    for former in root.handlers:
        if isinstance(former, _Handler):
            former.close()
    root.handlers = [handler]
    root.setLevel("INFO" if level == "debug" else level.upper())
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.NOTSET)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)


def leads_to_journal(stream: TextIO) -> bool:
    """Whether this stream is connected to the journal: JOURNAL_STREAM contains its device and inode.

    The presence of the variable is not enough, because child processes with redirected streams inherit it.
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no descriptor, or a closed one
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def prefixed(text: str, level: int) -> str:
    """Prefix every line with its priority; journald stores each line as a separate entry."""
    priority = next((number for least, number in PRIORITIES if level >= least), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def _renderer(form: str, colors: bool) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    # Not Rich's tracebacks: they show local variables.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
