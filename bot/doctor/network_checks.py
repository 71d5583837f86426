"""Check proxies, the system clock, and the address of the status page.

Contacts only the configured proxies and servers that the service uses anyway. Never shows passwords in proxy URLs.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp

from bot.config.address import Address
from bot.config.settings import Settings
from bot.doctor.check_runner import Findings
from bot.types.findings import Finding, State, ok, reason, warning, wrong

TIMEOUT_S = 8.0
SKEW_S = 60.0
DEFAULT_PORTS = {"http": 80, "https": 443}


async def proxies(settings: Settings) -> Findings:
    """Check that each configured proxy accepts connections."""
    found: dict[str, str] = {}
    for kind, url in getproxies().items():
        if kind != "no":
            found.setdefault(url, f"{kind.upper()}_PROXY")
    if settings.discord_proxy:
        found[settings.discord_proxy] = "INHOUSE_DISCORD_PROXY"
    if not found:
        yield ok("proxy", "none is set")
    for url, name in found.items():
        yield await _proxy(name, url)


async def _proxy(name: str, url: str) -> Finding:
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 80)
    except ValueError:
        return wrong("proxy", f"the port in {name} is invalid", f"Set {name} to a URL such as http://proxy:3128.")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except (OSError, TimeoutError) as error:
        fix = f"Start that proxy, correct {name}, or unset it."
        return wrong("proxy", f"{name}: {host}:{port} cannot be reached ({reason(error)})", fix)
    return ok("proxy", f"{name}: {host}:{port} answers")


async def clock(
    asked: Mapping[str, tuple[str, str | None]], now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Findings:
    """Compare the system clock with the Date header of the first server that answers.

    asked: maps the server's name to its URL and the proxy to it.
    """
    if not asked:
        yield ok("clock", "not checked: there is no server to compare it with")
        return
    for name, (url, proxy) in asked.items():
        try:
            async with _get(url, proxy=proxy) as response:
                theirs = parsedate_to_datetime(response.headers["Date"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError):
            continue
        yield _skew((now() - theirs).total_seconds(), name)
        return
    fix = "If tokens are refused, check the time with `timedatectl`."
    yield warning("clock", f"not checked: no answer from {' or '.join(asked)}", fix)


def _skew(seconds: float, name: str) -> Finding:
    if abs(seconds) <= SKEW_S:
        return ok("clock", f"it agrees with {name}")
    way = "ahead of" if seconds > 0 else "behind"
    amount = f"{abs(seconds):,.0f} s" if abs(seconds) < 7200 else f"{abs(seconds) / 3600:,.0f} hours"
    fix = "Synchronise it, for example with `timedatectl set-ntp true`."
    return warning("clock", f"it is {amount} {way} {name}", fix)


async def status_page(settings: Settings, *, running: bool) -> Findings:
    """Check that INHOUSE_HTTP is free or served by this Inhouse, and identify another program on it."""
    address = settings.http
    if address is None or "web" not in settings.roles:
        yield ok("status page", "off" if address is None else "not on this host (INHOUSE_ROLES)")
        return
    if address.port == 0:
        yield ok("status page", f"on any free port of {address.host}; the log names it")
        return
    answer = await answer_of(address)
    if answer is not None:
        for finding in _served(address, answer, running=running):
            yield finding
        return
    free = _free(address)
    yield free
    if free.state is State.OK and not address.loopback:
        fix = "Outside a trusted network, put a reverse proxy with TLS in front of it."
        yield ok("status page", f"{address} requires INHOUSE_HTTP_TOKEN, over plain HTTP", fix)


async def answer_of(address: Address) -> tuple[bool, str] | None:
    """Request /readyz: whether an Inhouse answered, and its text; None if the connection is refused."""
    try:
        async with _get(f"http://{_reachable(address)}/readyz") as response:
            return response.headers.get("Server") == "Inhouse", (await response.text()).strip()[:200]
    except aiohttp.ClientConnectorError:
        return None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False, ""


def _served(address: Address, answer: tuple[bool, str], *, running: bool) -> Iterator[Finding]:
    ours, text = answer
    if not ours:
        fix = "Set INHOUSE_HTTP to another port, or to off."
        yield warning("status page", f"another program uses {address}", fix)
    elif not running:
        fix = "Set INHOUSE_HTTP to another port."
        yield warning("status page", f"another Inhouse, with another state directory, uses {address}", fix)
    else:
        yield ok("status page", f"http://{_reachable(address)}/ is served by the running Inhouse")
        if text == "ready":
            yield ok("readiness", "ready to answer")
        else:
            yield warning("readiness", text or "no reason given", "If this lasts, see the log.")


def _free(address: Address) -> Finding:
    """Check that this process can bind the address."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address.host, address.port))
    except OSError as error:
        if error.errno == errno.EACCES:
            fix = "Set INHOUSE_HTTP to a port above 1023."
        elif error.errno == errno.EADDRINUSE:
            fix = "Set INHOUSE_HTTP to another port, or to off."
        else:
            fix = "Set INHOUSE_HTTP to an address of this machine, as 127.0.0.1:8321, or to off."
        return warning("status page", f"{address} cannot be used ({reason(error)})", fix)
    return ok("status page", f"{address} is free")


def _reachable(address: Address) -> Address:
    """The address to connect to: loopback instead of a wildcard address such as 0.0.0.0."""
    try:
        anywhere = ipaddress.ip_address(address.host).is_unspecified
    except ValueError:
        anywhere = False
    return Address("127.0.0.1", address.port) if anywhere else address


@asynccontextmanager
async def _get(url: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:  # Any: aiohttp's options
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, **more) as response:
        yield response
