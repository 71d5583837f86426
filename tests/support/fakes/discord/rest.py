"""Handles every REST call: scripted faults, the token, rate limits, the route's handler, the log.

Responds with Discord's JSON (exactly `application/json`), rate limit headers and `Via`, or drops the connection.
Handlers are plain functions from an `Ask` to JSON (None: 204) that raise `ApiError`; they never await, so that a call
is applied completely or not at all.
"""

import asyncio
import json
import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import BodyPartReader, web

from tests.support.fakes.discord.checks import ApiError
from tests.support.fakes.discord.limits import Limits, Refusal
from tests.support.fakes.discord.log import Call, Log
from tests.support.fakes.discord.state import File, Json
from tests.support.fakes.discord.store import DiscordStore
from tests.support.fakes.faults import Fault, Faults, Kind

MAX_REQUEST = 25 * 1024 * 1024
PREFIX = "/api/v10"


@dataclass(frozen=True)
class Ask:
    """A handler's input: path parameters, query, JSON body (an array is under the key "") and files."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Json
    files: list[File]


Answer = Json | list[Json] | None
Handler = Callable[[Ask], Answer]
Served = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Rest:
    """Discord's HTTP API with the given routes ("POST /channels/{channel_id}/messages" -> handler)."""

    def __init__(self, store: DiscordStore, token: str) -> None:
        self._store = store
        self.token = token
        self.limits = Limits(store.clock)
        self.faults = Faults()
        self.log = Log()

    def mount(self, app: web.Application, routes: Mapping[str, Handler]) -> None:
        """Adds the routes to the application."""
        for route, handler in routes.items():
            method, path = route.split(" ")
            app.router.add_route(method, PREFIX + path, self._serve(method, path, handler))
        app.router.add_route("*", PREFIX + "/{rest:.*}", self._serve("*", "/{rest}", _not_found))

    def _serve(self, method: str, route: str, handler: Handler) -> Served:
        async def serve(request: web.Request) -> web.StreamResponse:
            began = self._store.clock.now()
            if (request.content_length or 0) > MAX_REQUEST:
                return _json(413, {"message": "Request entity too large", "code": 40005}, {})
            ask = await _read(request, self._store)
            channel = request.match_info.get("channel_id")
            response = await self._answer(request, method, route, handler, ask)
            status = response.status if response is not None else 0
            took = self._store.clock.now() - began
            path = request.path.removeprefix(PREFIX)
            self.log.calls.append(Call(request.method, route, path, status, began, took, channel, ask.body))
            self._store.changes.tell()
            if response is None:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)
            return response

        return serve

    async def _answer(
        self, request: web.Request, method: str, route: str, handler: Handler, ask: Ask
    ) -> web.Response | None:
        """The response to a call, or None to drop the connection."""
        if self.limits.banned:
            return web.Response(status=429, text="<html>You are being blocked.</html>", content_type="text/html")
        fault = self.faults.find(method, route, channel=ask.path.get("channel_id"))
        if fault is not None and not fault.applied:
            if spoiled := await _spoil(fault):
                return spoiled
            if fault.kind is Kind.DROP:
                return None
        response = self._apply(request, method, route, handler, ask)
        if fault is not None and fault.applied:
            if spoiled := await _spoil(fault):
                return spoiled
            if fault.kind is Kind.DROP:
                return None
        return response

    def _apply(self, request: web.Request, method: str, route: str, handler: Handler, ask: Ask) -> web.Response:
        """Runs the handler if token and rate limits allow it."""
        open_to_all = "token" in ask.path
        if not open_to_all and request.headers.get("Authorization") != f"Bot {self.token}":
            self.limits.note(401, "")
            return _json(401, {"message": "401: Unauthorized", "code": 0}, {})
        major = ask.path.get("channel_id") or ask.path.get("guild_id") or ask.path.get("token", "")
        verdict = self.limits.take(f"{method} {route}", major, not open_to_all)
        if isinstance(verdict, Refusal):
            self.limits.note(429, verdict.scope)
            return _json(429, verdict.body, verdict.headers)
        try:
            return _json(200, handler(ask), verdict)
        except ApiError as error:
            self.limits.note(error.status, "")
            return _json(error.status, error.body, verdict)


async def _spoil(fault: Fault) -> web.Response | None:
    """Applies a fault; the response that it substitutes, if any."""
    if fault.kind is Kind.DELAY:
        await asyncio.sleep(fault.seconds)
    if fault.kind is Kind.FREEZE:
        await fault.released.wait()
    if fault.kind is not Kind.ANSWER:
        return None
    if fault.status >= 500:
        return web.Response(status=fault.status, text="<html>error</html>", content_type="text/html")
    return _json(fault.status, {"message": "scripted", "code": fault.code}, {})


def _json(status: int, body: Answer, headers: Mapping[str, str]) -> web.Response:
    """A response with the content type that clients compare literally; 204 without a body."""
    sent = {"Via": "1.1 google", **headers}
    if body is None:
        return web.Response(status=204, headers=sent)
    return web.Response(
        status=status, body=json.dumps(body).encode(), headers=sent | {"Content-Type": "application/json"}
    )


async def _read(request: web.Request, store: DiscordStore) -> Ask:
    """Parses a request; multipart requests have JSON in the field payload_json and files in files[n]."""
    body: Json = {}
    files: list[File] = []
    if request.content_type.startswith("multipart/"):
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            data = bytes(await part.read())
            if part.name == "payload_json":
                body = json.loads(data)
            else:
                files.append(new_file(store, part.filename or "unnamed", data))
    elif request.can_read_body:
        decoded = json.loads(await request.read())
        body = decoded if isinstance(decoded, dict) else {"": decoded}
    return Ask(dict(request.match_info), dict(request.query), body, files)


def new_file(store: DiscordStore, name: str, data: bytes) -> File:
    """An uploaded file, with the content type that Discord guesses from its name."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return File(store.clock.new_id(), name, data, kind + ("; charset=utf-8" if kind.startswith("text/") else ""))


def _not_found(ask: Ask) -> Answer:
    raise ApiError(404, 0, "404: Not Found")
