"""Check the engine's servers for `inhouse doctor`: reachable, kind, models, context window, latency."""

from collections.abc import AsyncIterator

from bot.config.settings import Settings
from bot.engine.remote.profiles import SETTABLE
from bot.engine.remote.remote_engine import RemoteEngine
from bot.engine.remote.server import Server
from bot.types.findings import Finding, ok, warning, wrong

MOST_MODELS = 8
MOST_CLOCK_S = 30.0
"""Difference of a server's clock that is worth a warning: the times in its log do not match ours."""


async def servers(settings: Settings) -> AsyncIterator[Finding]:
    """Ask each server once. A server that cannot be used is an error only if no other one has the model."""
    pool = RemoteEngine.of(settings).pool
    try:
        await pool.open()
        await pool.probe()
        usable = [server for server in pool.servers if server.offers(settings.model)]
        for server in pool.servers:
            yield _server(server, settings.model, alone=not usable)
            ahead_s = server.api.clock_s or 0.0
            if abs(ahead_s) > MOST_CLOCK_S:
                way = "ahead of" if ahead_s > 0 else "behind"
                found = f"its clock is {abs(ahead_s):.0f} s {way} this machine's"
                yield warning(server.name, found, "Synchronise the clocks: the times in the logs do not match.")
        lacking = sorted(
            {name for server in usable for name in server.capabilities_of(settings.model).lacks} & {*SETTABLE}
        )
        if lacking:
            yield warning("sampling", f"{' and '.join(lacking)}: not taken by the server, which uses its own")
    finally:
        await pool.close()


def _server(server: Server, model: str, *, alone: bool) -> Finding:
    report = wrong if alone else warning
    if server.problem:
        return report(server.name, server.problem, "Check INHOUSE_ENGINE_URLS, and that the server runs.")
    if not server.offers(model):
        there = ", ".join(sorted(server.models)[:MOST_MODELS]) or "none"
        fix = f"Set INHOUSE_MODEL to one of its models ({there}), or start it with {model}."
        return report(server.name, f"{server.profile.title} does not offer {model}", fix)
    window = server.models.get(model, 0)
    size = f"{window:,} tokens" if window else "its window is not published"
    what = ", ".join([server.profile.title, model, size, *server.capabilities_of(model).abilities])
    return ok(server.name, f"{what}, answers in {server.latency_s * 1000:.0f} ms")
