"""Compare the hosts that use one database."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bot.storage import LiveHost
from bot.types.findings import Finding, warning


def compared(hosts: Sequence[LiveHost]) -> Iterator[Finding]:
    """Warn of models and settings that differ between hosts that are alive."""
    differing = sorted(
        {
            name
            for host in hosts
            for name, value in host.settings.items()
            for other in hosts
            if other.settings.get(name, value) != value
        }
    )
    if differing:
        found = f"{', '.join(differing)} differ between {' and '.join(host.name for host in hosts if host.settings)}"
        yield warning("hosts", found, "Give all hosts the same settings; which one receives a question is chance.")
    writing = [host for host in hosts if host.models]
    only_on = defaultdict[tuple[str, ...], list[str]](list)
    for model in sorted({model for host in writing for model in host.models}):
        only_on[tuple(host.name for host in writing if model in host.models)].append(model)
    for names, models in only_on.items():
        if len(names) < len(writing):
            fix = "Their questions wait for these hosts: have them on the others, too (`inhouse pull NAME`)."
            yield warning("hosts", f"{', '.join(models)}: only on {' and '.join(names)}", fix)
