"""Reads what a server logs: how far its load is, and why it ended, as a phrase for operators and people.

The lines themselves are never shown to people; they may have paths of this machine.
"""

import logging
import re
from collections import deque

log = logging.getLogger("inhouse.engine")

KEPT = 60
"""Last lines that are searched for the cause of an exit."""
SHOWN = 10
"""Last lines that are logged as warnings after an end without a known cause."""
MOST_CHARS = 1000
"""Longest line; the rest is cut off."""

ERROR = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} E |^(?:\(\w+ pid=\d+\) )?(?:ERROR|CRITICAL)\b|^\w*(?:Error|Exception): ")
"""Errors of llama.cpp, of vLLM, and the last line of a Python traceback."""

STAGES: tuple[tuple[re.Pattern[str], str, float], ...] = (
    (re.compile(r"load_model: loading model"), "reading the weights", 0.0),
    (re.compile(r"Starting to load model|Loading (?:model )?weights"), "reading the weights", 0.15),
    (re.compile(r"(?:Loading|Fetching) .*shards.*?: +(\d{1,3})% "), "reading the weights", 0.2),
    (re.compile(r"Loading weights took|Model loading took"), "preparing the weights", 0.6),
    (re.compile(r"[Ww]arming up|torch\.compile (?:takes|took)|Dynamo bytecode|KV cache size"), "warming up", 0.7),
    (re.compile(r"Capturing CUDA graphs?.*?: +(\d{1,3})%"), "capturing CUDA graphs", 0.8),
    (re.compile(r"init engine \(profile"), "starting its API", 0.95),
    (re.compile(r"model loaded|Starting vLLM (?:API )?server|Application startup complete"), "starting its API", 0.97),
)
"""What a line says about the load: a pattern, the stage, and its share of the load. A percentage counts within it."""
WITHIN = {0.2: 0.4, 0.8: 0.15}
"""Width of the stages that have a percentage, by their begin."""

NO_MEMORY = "there is not enough memory for it. Choose a smaller model, or one with fewer bits"
CAUSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"(?i)out of memory|OutOfMemory|bad_alloc|failed to allocate|can(?:no|')t allocate memory"
            r"|unable to allocate"
            r"|no available memory for the cache|less than desired (?:GPU|CPU) memory"
            r"|larger than the available KV cache memory|insufficient memory"
        ),
        NO_MEMORY,
    ),
    (
        re.compile(
            r"(?i)unknown model architecture: '([\w.-]{1,60})'"
            r"|architectures? \[?'?([\w.-]{1,60})'?\]? (?:are|is) not supported"
            r"|model type `([\w.-]{1,60})` but Transformers does not recognize"
        ),
        "this version of {title} does not know its architecture ({what}). Update {title}, or choose another model",
    ),
    (
        re.compile(r"(?i)unknown (?:pre-tokenizer type|tokenizer): '([\w.-]{1,60})'"),
        "this version of {title} does not know its tokenizer ({what}). Update {title}, or choose another model",
    ),
    (re.compile(r"(?i)couldn't bind|address already in use"), "another program took its port. Try again"),
    (
        re.compile(
            r"(?i)error while loading shared libraries: ([\w.+-]{1,60})"
            r"|^(?:ImportError: )?(lib[\w.+-]{1,60}): cannot open"
            r"|ModuleNotFoundError: No module named '([\w.]{1,60})'"
        ),
        "{title} lacks a library ({what}). Install {title} again",
    ),
    (
        re.compile(
            r"(?i)(?:invalid argument|unrecognized arguments?|unknown argument|invalid option)"
            r": ?'?(-[\w-]{1,40})"
        ),
        "{title} does not know the argument {what}. Correct INHOUSE_ENGINE_ARGS, or update {title}",
    ),
    (
        re.compile(r"(?i)error while handling argument \"(-[\w-]{1,40})|error: argument (-[\w-]{1,40})"),
        "the argument {what} has a value that {title} does not take. Correct INHOUSE_ENGINE_ARGS",
    ),
    (
        re.compile(
            r"(?i)failed to (?:open|read) GGUF|failed to read key-value pairs|invalid magic"
            r"|not within the file bounds"
            r"|HeaderTooLarge|MetadataIncompleteBuffer|tensor .{1,80} is (?:missing|not found)|SafetensorError"
        ),
        "its file cannot be read or is damaged. Remove the model and fetch it again",
    ),
    (
        re.compile(
            r"(?i)Failed to infer device type|no CUDA-capable device|CUDA driver version is insufficient"
            r"|no kernel image"
            r"|NVIDIA driver"
        ),
        "{title} finds no GPU that it can use. `inhouse doctor` looks at the GPU",
    ),
    (re.compile(r"(?i)illegal instruction"), "this build of {title} needs instructions that this processor lacks"),
    (
        re.compile(r"trust_remote_code=True"),  # vLLM logs its setting at each start, with False
        "it has code of its own in its repository, which Inhouse does not run. Choose another model",
    ),
)
"""What a line of the log says about the cause of an exit. Groups are what it names."""

RETRY = re.compile(r"couldn't bind|address already in use", re.IGNORECASE)
"""Lines of a server whose port was taken between the choice and its start."""

CACHE_TOKENS = re.compile(r"(?:GPU|CPU) KV cache size: ([\d,]{1,15}) tokens")


class ServerLog:
    """The log of one server. title: its software. name: the model's. key: hidden in the lines."""

    def __init__(self, title: str, name: str, key: str) -> None:
        self._title, self._name, self._key = title, name, key
        self._last: deque[str] = deque(maxlen=KEPT)
        self.stage, self.fraction = f"starting {title}", 0.0
        self.lines = 0
        self.cache_tokens = 0
        """Tokens of the KV cache, if the server says so."""

    def add(self, line: str) -> None:
        """Note a line, and log it: errors as warnings, others at debug."""
        line = line.replace(self._key, "[key]")[:MOST_CHARS]
        line = "".join(char if char.isprintable() else " " for char in line).rstrip()
        if not line:
            return
        self.lines += 1
        self._last.append(line)
        for pattern, stage, share in STAGES:
            if (found := pattern.search(line)) is not None:
                within = min(1.0, int(found[1]) / 100) * WITHIN[share] if found.groups() else 0.0
                self.stage, self.fraction = stage, max(self.fraction, share + within)
        if (found := CACHE_TOKENS.search(line)) is not None:
            self.cache_tokens = int(found[1].replace(",", ""))
        level = logging.WARNING if ERROR.search(line) else logging.DEBUG
        log.log(level, "%s (%s): %s", self._title, self._name, line)

    @property
    def port_was_taken(self) -> bool:
        """Whether it ended because another program took its port."""
        return any(RETRY.search(line) for line in self._last)

    def show_end(self) -> None:
        """Log the last lines as warnings, without those that were when they came."""
        for line in list(self._last)[-SHOWN:]:
            if not ERROR.search(line):
                log.warning("%s (%s), at its end: %s", self._title, self._name, line)

    def cause(self) -> str:
        """Why the server ended, as the end of a sentence and without a full stop; '' if the log does not tell."""
        for pattern, cause in CAUSES:
            for line in self._last:
                if (found := pattern.search(line)) is not None:
                    what = next((group for group in found.groups() if group), "")
                    return cause.format(title=self._title, what=what)
        return ""
