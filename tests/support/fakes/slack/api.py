"""Handles every Web API call: scripted faults, the token, rate limits, scopes, the method's handler, the log.

Responds with JSON with ok true or false, or a 429 with Retry-After, or drops the connection. Handlers are plain
functions from an `Ask` to JSON that raise `SlackError`; they never await, so that a call is applied completely or not
at all.
"""

import asyncio
import json
from collections.abc import Callable, Mapping

from aiohttp import web

from tests.support.fakes.faults import Fault, Faults, Kind
from tests.support.fakes.slack.asks import Ask, SlackError, read
from tests.support.fakes.slack.limits import Limits
from tests.support.fakes.slack.log import Call, Log
from tests.support.fakes.slack.state import Json
from tests.support.fakes.slack.store import SlackStore
from tests.support.fakes.slack.subscriptions import method_scopes

Handler = Callable[[Ask], Json]
OPEN = "apps.connections.open"
"""The only method that takes the app-level token."""


class Api:
    """Slack's Web API with the given methods ("chat.postMessage" -> handler)."""

    def __init__(self, store: SlackStore, log: Log, bot_token: str, app_token: str) -> None:
        self._store, self.log = store, log
        self.bot_token, self.app_token = bot_token, app_token
        self.bot_token_error = ""
        self.app_token_error = ""
        self.app_scopes = {"connections:write"}
        self.limits = Limits(store.clock)
        self.faults = Faults()
        self._methods: dict[str, Handler] = {}

    def mount(self, app: web.Application, methods: Mapping[str, Handler]) -> None:
        """Adds the methods to the application."""
        self._methods = dict(methods)
        app.router.add_route("*", "/api/{method}", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        try:
            ask = await read(request, method)
        except SlackError as error:
            return answer(200, error.body, {})
        return await self.pass_through(request, ask, self._apply)

    async def pass_through(
        self, request: web.Request, ask: Ask, apply: Callable[[Ask], web.Response]
    ) -> web.StreamResponse:
        """Responds to a call, with its scripted faults, and logs it."""
        began = self._store.clock.now()
        response = await self._answer(ask, apply)
        took = self._store.clock.now() - began
        status = response.status if response is not None else 0
        kind = {self.bot_token: "bot", self.app_token: "app"}.get(ask.token, "")
        self.log.calls.append(Call(ask.method, ask.arguments, status, _error(response), began, took, ask.form, kind))
        self._store.changes.tell()
        if response is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return response

    async def _answer(self, ask: Ask, apply: Callable[[Ask], web.Response]) -> web.Response | None:
        """The response to a call, or None to drop the connection."""
        fault = self.faults.find(ask.method, channel=ask.text("channel") or ask.text("channel_id"))
        if fault is not None and not fault.applied:
            if spoiled := await _spoil(fault):
                return spoiled
            if fault.kind is Kind.DROP:
                return None
        response = apply(ask)
        if fault is not None and fault.applied:
            if spoiled := await _spoil(fault):
                return spoiled
            if fault.kind is Kind.DROP:
                return None
        return response

    def _apply(self, ask: Ask) -> web.Response:
        """Runs the handler if token, rate limits and scopes allow it."""
        headers: dict[str, str] = {}
        try:
            if ask.method not in self._methods:
                raise SlackError("unknown_method", req_method=ask.method)
            self._check_token(ask)
            channel = ask.text("channel") or ask.text("channel_id")
            if wait := self.limits.wait(ask.method, channel):
                return answer(429, {"ok": False, "error": "ratelimited"}, {"Retry-After": str(wait)})
            headers["x-oauth-scopes"] = ",".join(sorted(self._scopes(ask)))
            self._check_scope(ask, channel)
            return answer(200, {"ok": True, **self._methods[ask.method](ask)}, headers)
        except SlackError as error:
            return answer(error.status, error.body, headers)

    def _check_token(self, ask: Ask) -> None:
        """Checks that the token is valid and of the kind that the method takes."""
        if not ask.token:
            raise SlackError("not_authed")
        if ask.token not in (self.bot_token, self.app_token):
            raise SlackError("invalid_auth")
        of_app = ask.token == self.app_token
        if error := self.app_token_error if of_app else self.bot_token_error:
            raise SlackError(error)
        if of_app != (ask.method == OPEN) and not (of_app and ask.method == "auth.test"):
            raise SlackError("not_allowed_token_type")

    def _scopes(self, ask: Ask) -> set[str]:
        return self.app_scopes if ask.token == self.app_token else self._store.scopes

    def _check_scope(self, ask: Ask, channel: str) -> None:
        """Checks that the token has one of the method's scopes."""
        where = self._store.channels.get(channel)
        wanted = (
            ("connections:write",) if ask.method == OPEN else method_scopes(ask.method, where.kind if where else "")
        )
        given = self._scopes(ask)
        if wanted and not given & set(wanted):
            raise SlackError("missing_scope", needed=",".join(wanted), provided=",".join(sorted(given)))


async def _spoil(fault: Fault) -> web.Response | None:
    """Applies a fault; the response that it substitutes, if any."""
    if fault.kind is Kind.DELAY:
        await asyncio.sleep(fault.seconds)
    if fault.kind is Kind.FREEZE:
        await fault.released.wait()
    if fault.kind is Kind.ANSWER:
        return web.Response(status=fault.status, text="<html>error</html>", content_type="text/html")
    if fault.kind is Kind.REFUSAL:
        return answer(200, {"ok": False, "error": fault.error}, {})
    return None


def answer(status: int, body: Json, headers: Mapping[str, str]) -> web.Response:
    """A JSON response."""
    return web.json_response(body, status=status, headers=headers)


def _error(response: web.Response | None) -> str:
    """The error code of a response, '' if it has none."""
    if response is None or not isinstance(response.body, bytes) or response.content_type != "application/json":
        return ""
    return str(json.loads(response.body).get("error", ""))
