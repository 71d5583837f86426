"""Write every logger's records, ours and the libraries', as text or JSON to stderr, with tokens redacted.

A record is one line; an exception adds its traceback without local variables, which hold what people wrote. All of it
passes `Redactor`: no configured token, and nothing that looks like one, is ever written, not even from inside a
library's exception. What people and models say is never logged: callers give ids and lengths (in `extra`), and
libraries, which at debug write down whole messages, log from info on. Lines that repeat are counted (`Throttle`).
Where stderr is systemd's journal, lines begin with their priority, and leave out what the journal adds itself: time and
colours.
"""

import json
import logging
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

from bot.observability.journal import leads_to_journal, prefixed

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
"""Libraries that tell at info what they do at every step; they are heard from warning on."""

OURS = ("bot", "adapters", "inhouse")
"""The loggers that debug is for."""


class Redactor:
    """Takes tokens out of text: the given ones (also as JSON and URLs write them), and whatever looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in (secret, json.dumps(secret)[1:-1], quote(secret, ""))}
        # The longest first, so that no form is cut by a shorter one that it contains.
        known = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        self._known = re.compile(known) if known else None

    def __call__(self, text: str) -> str:
        if self._known:
            text = self._known.sub(REDACTED, text)
        return TOKEN_SHAPES.sub(REDACTED, text)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Redacts what was rendered, so that nothing gets past, whichever processor brought it in."""

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
    """One line's occurrences since `began`. Not the record itself, whose traceback would keep local variables alive."""

    began: float
    logger: str
    level: int
    count: int = 0
    message: str = ""


class Throttle:
    """Lets the first BURST of equal records in WINDOW_S pass and counts the others. Not thread-safe.

    Equal are records of one logger, level, rendered message, extra values and exception (its type, text and place).
    """

    BURST, WINDOW_S = 10, 10.0
    MOST = 1000
    """Different records that are remembered; beyond that the oldest window ends early."""

    def __init__(self) -> None:
        self._repeats: OrderedDict[int, _Repeats] = OrderedDict()  # the oldest window first

    def passes(self, record: logging.LogRecord) -> bool:
        """Count a record; whether it is to be written."""
        key = _identity(record)
        repeats = self._repeats.setdefault(key, _Repeats(time.monotonic(), record.name, record.levelno))
        repeats.count += 1
        if repeats.count == self.BURST + 1:
            repeats.message = record.getMessage()
        return repeats.count <= self.BURST

    def ended(self, *, early: bool = False) -> Iterator[logging.LogRecord]:
        """End the windows that are over, or all; for each that dropped records, one that says how many."""
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
"""What every record has; the rest is `extra`."""


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
    """Writes lines; one that cannot be rendered is named and lost (the stdlib would print its arguments unredacted)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._throttle = Throttle()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is one too many of its kind; called with the handler's lock held."""
        for told in self._throttle.ended():
            super().emit(told)
        try:
            passes = self._throttle.passes(record)
        except Exception:  # it cannot be rendered
            passes = True
        if passes:
            super().emit(record)

    def close(self) -> None:
        """Say what was left out and not told yet."""
        for told in self._throttle.ended(early=True):
            super().emit(told)
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the stdlib's name
        reason = sys.exc_info()[0]
        name = reason.__name__ if reason else "no reason known"
        try:
            self.stream.write(f"a log line is lost: {record.name}, {record.filename}:{record.lineno}: {name}\n")
        except (OSError, ValueError):
            return  # stderr itself is gone, and with it everybody who could be told


def setup_logs(level: str, form: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (stderr) from `level` (debug, info, warning, error) on, as `form` (text or json).

    `secrets` are the token values to take out. Calling it again replaces what was set before.
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


def _renderer(form: str, colors: bool) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    # Not Rich's tracebacks: they show local variables.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
