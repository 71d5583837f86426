"""Reads findings in tests of `inhouse doctor`."""

from collections.abc import AsyncIterator, Iterable

from bot.types.findings import Finding, State


async def gathered(stream: AsyncIterator[Finding]) -> list[Finding]:
    """Collects all findings of a check."""
    return [finding async for finding in stream]


def about(findings: Iterable[Finding], check: str) -> Finding:
    """The only finding of a check."""
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def states(findings: Iterable[Finding]) -> dict[str, State]:
    """State by check."""
    return {finding.check: finding.state for finding in findings}


def complete(findings: Iterable[Finding]) -> bool:
    """True if each finding that is not OK has a fix."""
    return all(finding.fix for finding in findings if finding.state is not State.OK)
