"""Authorise HTTP requests: by bearer token if one is set, else by a loopback name in the Host header.

A browser sends the token once, in a form or as ?token=, and gets a cookie; the redirect removes the token from the URL.
Without a token, only loopback Host names are accepted, which prevents DNS rebinding. Malformed requests get 400.
"""

import asyncio
import hashlib
import hmac
import html
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from bot.config.address import is_loopback, network_of, parse_host
from bot.web.login_throttle import LoginThrottle

COOKIE = "inhouse"
COOKIE_S = 30 * 24 * 3600
BODY_S = 10.0
"""Timeout of the body of a request, seconds."""
OPEN = ("/healthz", "/readyz", "/login", "/style.css", "/icon.svg")
"""Paths that need no token, since they contain nothing confidential."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Server": "Inhouse",
}

LOOPBACK_ONLY = "Only this machine may open this page, as localhost, 127.0.0.1 or [::1].\n"
CROSS_SITE = "Requests from other sites are refused.\n"
NO_HOST = "The Host header is missing, repeated or malformed.\n"
NO_FORM = "The form cannot be read.\n"
TIMED_OUT = f"The request body did not arrive within {BODY_S:.0f} s.\n"
NO_TOKEN = "Token required: send INHOUSE_HTTP_TOKEN as 'Authorization: Bearer ...'.\n"
WRONG_TOKEN = "Wrong token. Enter the value of INHOUSE_HTTP_TOKEN."


class Auth:
    """Checks every request. token: the required token, '' for none. pages: the directory with login.html."""

    def __init__(self, token: str, pages: Path) -> None:
        self._token = token.encode()
        self._cookie = hmac.digest(self._token, b"inhouse status page", hashlib.sha256).hex()
        self._throttle = LoginThrottle()
        self._form = (pages / "login.html").read_text("utf-8")

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check a request, then call its handler or answer with an error or the login form."""
        try:
            (name,) = request.headers.getall("Host", [])
            host = parse_host(name)
        except ValueError:
            return web.Response(status=400, text=NO_HOST)
        if not self._token and not is_loopback(host):
            return web.Response(status=403, text=LOOPBACK_ONLY)
        if _is_cross_site(request):
            return web.Response(status=403, text=CROSS_SITE)
        if not self._token or request.path in OPEN:
            return await handler(request)
        if request.path == "/" and "token" in request.query:
            return await self._log_in(request, request.query["token"])
        if await self._is_authorised(request):
            return await handler(request)
        if request.path == "/":
            return self._login_form()
        return web.Response(status=401, text=NO_TOKEN, headers={"WWW-Authenticate": 'Bearer realm="Inhouse"'})

    async def login(self, request: web.Request) -> web.Response:
        """Check the token of the login form."""
        try:
            async with asyncio.timeout(BODY_S):
                given = (await request.post()).get("token", "")
        except TimeoutError:
            return web.Response(status=408, text=TIMED_OUT)
        except web.HTTPException:
            raise
        except Exception:  # aiohttp raises many types for a malformed multipart body, charset or encoding
            return web.Response(status=400, text=NO_FORM)
        return await self._log_in(request, given.strip() if isinstance(given, str) else "")

    async def _log_in(self, request: web.Request, given: str) -> web.Response:
        if not self._token or not await self._is_token(request, given):
            return self._login_form(WRONG_TOKEN)
        response = web.Response(status=303, headers={"Location": "./"})
        https = request.headers.get("X-Forwarded-Proto", request.scheme) == "https"  # set by a reverse proxy
        response.set_cookie(
            COOKIE, self._cookie, max_age=COOKIE_S, httponly=True, samesite="Strict", secure=https or None
        )
        return response

    def _login_form(self, problem: str = "") -> web.Response:
        text = self._form.replace("{problem}", html.escape(problem)).replace("{hidden}", "" if problem else "hidden")
        return web.Response(status=401, text=text, content_type="text/html")

    async def _is_authorised(self, request: web.Request) -> bool:
        if hmac.compare_digest(request.cookies.get(COOKIE, "").encode("utf-8", "replace"), self._cookie.encode()):
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and await self._is_token(request, given.strip())

    async def _is_token(self, request: web.Request, given: str) -> bool:
        if not given:
            return False
        network = network_of(request.remote or "")
        await self._throttle.wait(network)
        right = hmac.compare_digest(given.encode("utf-8", "replace"), self._token)
        if not right:
            self._throttle.wrong(network)
        return right


async def with_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers to a response (aiohttp's on_response_prepare signal)."""
    response.headers.update(HEADERS)


def _is_cross_site(request: web.Request) -> bool:
    """Whether a page of another site sends this request; a user who follows a link from there is allowed."""
    site, mode = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Sec-Fetch-Mode", "")
    return site not in ("none", "same-origin") and mode != "navigate"
