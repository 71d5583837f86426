"""Print findings as a table (terminal), as lines (pipe) or as JSON.

All text passes the redactor first, and the user and password of URLs are removed, so no token is shown.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bot.observability.logs import REDACTED, Redactor
from bot.types.findings import Finding, State

STYLES = {State.OK: "green", State.WARNING: "yellow", State.WRONG: "bold red"}
STATE_WIDTH, CHECK_WIDTH = 7, 18
USERINFO = re.compile(r"(?<=://)[^\s/@]+(?=@)")


class Report:
    """Collects findings, and prints each section when it is added."""

    def __init__(self, console: Console, secrets: Iterable[str]) -> None:
        self._console, self._redact = console, Redactor(secrets)
        self._arrow = "→" if console.encoding.lower().startswith("utf") else "->"
        self.findings: list[Finding] = []

    def add(self, title: str, found: Sequence[Finding], *, show: bool) -> None:
        """Redact and store the findings of one section; print them if `show` is set."""
        clean = [self._clean(finding) for finding in found]
        self.findings += clean
        if not show or not clean:
            return
        if self._console.is_terminal:
            self._console.print(Text(title, style="bold"))
            self._console.print(Padding(self._table(clean), (0, 0, 0, 2)))
            for link in self._broken_links(clean):
                self._console.print(Text(f"    {link}"), soft_wrap=True)
            self._console.print()
        else:
            for finding in clean:
                self._console.print(line(finding), markup=False, highlight=False, soft_wrap=True)

    def json(self) -> str:
        """All findings as a JSON array."""
        return json.dumps([asdict(finding) for finding in self.findings], ensure_ascii=False, indent=2)

    def summary(self) -> Text:
        """The number of findings per state."""
        count = {state: sum(finding.state is state for finding in self.findings) for state in State}
        warnings = f"{count[State.WARNING]} warning{'' if count[State.WARNING] == 1 else 's'}"
        verdict = f"{count[State.WRONG]} wrong" if count[State.WRONG] else "nothing is wrong"
        style = STYLES[State.WRONG if count[State.WRONG] else State.OK]
        return Text.assemble(
            f"{count[State.OK]} ok, ", (warnings, "yellow" if count[State.WARNING] else ""), ", "
        ).append(verdict, style=style)

    def _clean(self, finding: Finding) -> Finding:
        found, fix = (USERINFO.sub(REDACTED, self._redact(text)) for text in (finding.found, finding.fix))
        return replace(finding, found=found, fix=fix)

    def _broken_links(self, found: Sequence[Finding]) -> list[str]:
        """The links of the fixes that the table breaks, since they are longer than its column."""
        room = self._console.width - STATE_WIDTH - CHECK_WIDTH - 6
        words = [word.rstrip(".,:;)") for finding in found for word in finding.fix.split()]
        return list(dict.fromkeys(word for word in words if word.startswith("https://") and len(word) > room))

    def _table(self, found: Sequence[Finding]) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=STATE_WIDTH)
        table.add_column(width=CHECK_WIDTH, overflow="fold")
        table.add_column(overflow="fold")
        for finding in found:
            text = Text(finding.found)
            if finding.fix:
                text.append(f"\n{self._arrow} {finding.fix}", style="" if finding.state is State.OK else "bold")
            table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.check, text)
        return table


def line(finding: Finding) -> str:
    """Format a finding as one line of text."""
    fix = f" -> {finding.fix}" if finding.fix else ""
    return f"{finding.state:<{STATE_WIDTH}}  {finding.check}: {finding.found}{fix}"
