"""Parses the arguments of a Web API call, and defines Slack's error responses.

A call comes as GET query, POST query, form or JSON; in the first three every value is a string, with lists and objects
as JSON strings. `SlackError` is a response with ok: false.
"""

import json
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.fakes.slack.state import Json

_TRUE, _FALSE = ("1", "true", "True"), ("0", "false", "False", "")


class SlackError(Exception):
    """ok: false. `status` is 200 for the Web API; response_url and uploads use others."""

    def __init__(self, error: str, *messages: str, status: int = 200, **more: object) -> None:
        super().__init__(error)
        self.error, self.status = error, status
        self.body: Json = {"ok": False, "error": error, **more}
        if messages:
            self.body["response_metadata"] = {"messages": [f"[ERROR] {each}" for each in messages]}


@dataclass(frozen=True)
class Ask:
    """The arguments of one call, without the token."""

    method: str
    arguments: Json
    token: str = ""
    form: str = "json"
    path: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def text(self, name: str) -> str:
        """A string argument, '' if missing."""
        value = self.arguments.get(name)
        return "" if value is None else str(value)

    def required(self, name: str) -> str:
        """A required string argument. Raises SlackError if missing."""
        value = self.text(name)
        if not value:
            raise SlackError("invalid_arguments", f"missing required field: {name}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean argument."""
        value = self.arguments.get(name)
        if value is None:
            return default
        if str(value) not in _TRUE + _FALSE:
            raise SlackError("invalid_arguments", f"must be a boolean: {name}")
        return str(value) in _TRUE

    def number(self, name: str, default: int) -> int:
        """An integer argument."""
        value = self.text(name)
        if value and not value.lstrip("-").isdigit():
            raise SlackError("invalid_arguments", f"must be a number: {name}")
        return int(value) if value else default

    def items(self, name: str, error: str) -> list[Json] | None:
        """A list of objects; None if missing."""
        found = self._decoded(name, error)
        if found is None:
            return None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise SlackError(error)
        return found

    def mapping(self, name: str, error: str) -> Json | None:
        """An object; None if missing."""
        found = self._decoded(name, error)
        if found is not None and not isinstance(found, dict):
            raise SlackError(error)
        return found

    def _decoded(self, name: str, error: str) -> object:
        value = self.arguments.get(name)
        if not isinstance(value, str):
            return value
        if not value:
            return None
        try:
            decoded: object = json.loads(value)
        except ValueError:
            raise SlackError(error) from None
        return decoded


async def read(request: web.Request, method: str) -> Ask:
    """Parses a request. Raises SlackError for a body in none of the four forms."""
    arguments: Json = dict(request.query)
    form = f"{request.method.lower()} query"
    kind = request.content_type
    if request.can_read_body and kind == "application/json":
        form = "json"
        try:
            decoded = json.loads(await request.read())
        except ValueError:
            raise SlackError("invalid_json") from None
        if not isinstance(decoded, dict):
            raise SlackError("json_not_object")
        arguments |= decoded
    elif request.can_read_body and kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        posted = await request.post()
        if posted:
            form = "form"
        arguments |= {name: value for name, value in posted.items() if isinstance(value, str)}
    elif request.can_read_body and await request.read():
        raise SlackError("invalid_post_type")
    token = str(arguments.pop("token", "") or request.headers.get("Authorization", "").removeprefix("Bearer "))
    return Ask(method, arguments, token.strip(), form)
