"""How the tests of `inhouse doctor` look at findings."""

from collections.abc import AsyncIterator, Iterable

from bot.types.findings import Finding, State


async def gathered(stream: AsyncIterator[Finding]) -> list[Finding]:
    """All that a check finds."""
    return [finding async for finding in stream]


def about(findings: Iterable[Finding], check: str) -> Finding:
    """The one finding of a check."""
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def states(findings: Iterable[Finding]) -> dict[str, State]:
    """How each check stands."""
    return {finding.check: finding.state for finding in findings}


def complete(findings: Iterable[Finding]) -> bool:
    """Whether everything that is not ok says what to do."""
    return all(finding.fix for finding in findings if finding.state is not State.OK)
