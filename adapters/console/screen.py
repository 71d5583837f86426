"""The interactive console: streams Markdown, shows a spinner while waiting and a statistics line after each answer.

Complete blocks of an answer are printed permanently. Only the unfinished block is redrawn, limited to the height of the
window, so that nothing flickers or is lost.
"""

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from adapters.console.keys import intercepted_keys, keys_unprocessed, sigint_calls
from adapters.console.redraw import LiveLines
from adapters.console.terminal_markdown import Blocks, stable_prefix
from bot.platforms.splitter import without_bidi_controls
from bot.types.messages import Attachment, FinishReason, Notice, Reply

FRAMES_PER_S = 12
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
KEYS = (
    ("Ctrl-C", "Stop the answer; at the prompt, delete the line"),
    ("Ctrl-D", "Leave the chat, as do 'exit' and 'quit'"),
    ("Alt-Enter", "Start a new line in the question"),
)


def printable(text: str) -> str:
    """Remove control characters: model output must not move the cursor, ring the bell or set the title."""
    return without_bidi_controls(_CONTROLS.sub("", text))


def footer(reply: Reply) -> str:
    """Format statistics: 'Generated 90 tokens in 4.2 s (21.4 tokens/s), first after 0.3 s', and notes on the end.

    The time is prefill plus decode; the time of the first token includes the queue. '' if nothing was generated.
    """
    usage = reply.usage
    if usage is None or not usage.generated_tokens:
        return ""
    seconds = usage.prefill_s + usage.decode_s
    rate = f" ({usage.generated_tokens / seconds:.1f} tokens/s)" if seconds > 0 else ""
    tokens = "token" if usage.generated_tokens == 1 else "tokens"
    line = f"Generated {usage.generated_tokens} {tokens} in {seconds:.1f} s{rate}"
    line += f", first after {usage.queue_s + usage.prefill_s:.1f} s"
    if reply.finish_reason is FinishReason.ABORT:
        line += "; stopped"
    if reply.finish_reason is FinishReason.LENGTH:
        line += "; cut at max_tokens, /continue goes on"
    if usage.dropped_turns:
        line += f"; the oldest {usage.dropped_turns} messages did not fit, see /why"
    return line


class _LiveArea:
    """The redrawn lines: the end of the unfinished block, and a spinner with the status."""

    def __init__(self) -> None:
        self.text = ""
        self.status = ""
        self.gap = False  # a block was printed above
        self.done = False
        self._spinner = Spinner("dots", style="dim")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.text:
            # Half of the window, so that it still fits when the window's width is halved.
            yield Blocks(self.text, gap=self.gap, last=max(1, (console.height - 1) // 2))
        if self.status or not (self.text or self.done):
            self._spinner.update(text=Text(self.status, style="dim"))
            yield self._spinner


async def _animate(live: LiveLines) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(1 / FRAMES_PER_S)


class RichScreen:
    """Output on an interactive terminal. `downloads`: directory for the files of /export."""

    def __init__(self, console: Console, downloads: Path) -> None:
        self._console = console
        self._downloads = downloads
        self._live = _LiveArea()
        self._reply_id = ""  # id of the current reply
        self._printed = ""  # its prefix that was printed permanently

    def conversation(self) -> contextlib.AbstractContextManager[object]:
        """Keep each key that is pressed between an answer and the next prompt."""
        return keys_unprocessed()

    @contextlib.contextmanager
    def answering(self, interrupted: Callable[[], None]) -> Iterator[None]:
        """Show a spinner until there is text; Ctrl-C calls `interrupted` on the event loop."""
        self._live = _LiveArea()
        live = LiveLines(self._console, self._live)
        animation = asyncio.create_task(_animate(live))
        try:
            with sigint_calls(interrupted), intercepted_keys(interrupted), live:
                yield
        finally:
            animation.cancel()
            self._reply_id, self._printed = "", ""

    def waiting(self, text: str) -> None:
        """Show `text` beside the spinner, if there is one."""
        self._live.status = printable(text)

    def show(self, reply: Reply) -> None:
        """Print the complete blocks of the reply and redraw the rest."""
        text = printable(reply.committed + reply.tail)
        if reply.reply_id != self._reply_id:
            if self._reply_id and reply.final:  # not the reply that is being streamed
                self._print(text, reply)
                return
            self._reply_id, self._printed = reply.reply_id, ""
            self._live.gap = self._live.done = False
        if not text.startswith(self._printed):  # the answer was restarted after a failure
            self._printed = ""
        if reply.final:
            self._live.text, self._live.status, self._live.done = "", "", True
            self._print(text[len(self._printed) :], reply)
            self._reply_id = ""
            return
        start = len(self._printed)
        end = start + stable_prefix(printable(reply.committed)[start:])
        self._printed = text[:end]
        if text[end:] != self._live.text:  # new text replaces the status
            self._live.text, self._live.status = text[end:], ""
        if end > start:
            self._print_blocks(text[start:end])

    def notice(self, notice: Notice) -> None:
        """Print the response to a command."""
        self._console.print(Blocks(printable(notice.text)), end="")
        self._console.print()

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        """Print commands and keys in two columns."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, style="cyan")
        table.add_column()
        for usage, description in (*commands, *KEYS):
            table.add_row(Text(usage), Text(description))
        self._console.print(table)
        self._console.print()

    def exists(self, file: Attachment) -> bool:
        """Whether the download directory has a file of that name."""
        return (self._downloads / Path(file.name).name).exists()

    def save(self, file: Attachment, *, replace: bool) -> None:
        """Save a file in the download directory and print its path; replace: overwrite an existing file."""
        try:
            path = self._save(file, replace=replace)
        except OSError as error:
            self.problem(f"{file.name} cannot be saved in {self._downloads} ({error.strerror}).")
        else:
            self._console.print(Text(f"Saved as {path}", style="dim"), soft_wrap=True)
            self._console.print()

    def remark(self, text: str) -> None:
        """Print a dimmed hint."""
        self._console.print(Text(printable(text), style="dim"))

    async def wait_closed(self) -> None:
        """Never return: closing a terminal sends SIGHUP."""
        await asyncio.Event().wait()

    def problem(self, text: str) -> None:
        """Print one sentence as an error."""
        self._console.print(Text(printable(text), style="red"))
        self._console.print()

    def _print(self, rest: str, reply: Reply) -> None:
        """Print the end of a reply and its statistics line."""
        error = ""
        if reply.finish_reason is FinishReason.ERROR:
            rest, _, error = rest.rstrip().rpartition("\n\n")
        if rest.strip():
            self._print_blocks(rest)
        if error:
            self._console.print(Text(error, style="red"))
        if line := footer(reply):
            self._console.print(Text(f"\n{line}", style="dim"))
        self._live.gap = False
        self._console.print()

    def _print_blocks(self, text: str) -> None:
        blocks = Blocks(text, gap=self._live.gap)
        self._live.gap = True
        self._console.print(blocks, end="")

    def _save(self, file: Attachment, *, replace: bool) -> Path:
        """Write the file, with the next free name unless `replace`. Raises OSError."""
        name = Path(file.name)
        if replace:
            path = self._downloads / name.name
            path.write_text(file.text, encoding="utf-8")
            return path
        for number in itertools.count(1):
            path = self._downloads / (name.name if number == 1 else f"{name.stem}-{number}{name.suffix}")
            with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as out:
                out.write(file.text)
                break
        return path
