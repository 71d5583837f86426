"""The types of settings: how their text is read, and when it is refused (with ValueError, whose text is not shown)."""

import re
import shlex
import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from bot.config.address import Address, parse_address

PLATFORMS = ("discord", "slack")
ROLES = ("adapters", "worker", "web")
"""What one host may do: receive events, write answers, show the status page."""
SHORTEST_TOKEN = 16
"""Minimum length of INHOUSE_HTTP_TOKEN, which operators choose; a shorter one could be guessed."""
_HOST = re.compile(r"(?:\*\.)?+[a-z0-9-]++(?:\.[a-z0-9-]++)*+")


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _words(value: object) -> object:
    """Split a comma-separated list and drop duplicates."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, value.split(","))))) if isinstance(value, str) else value


def _people(value: object) -> object:
    if not isinstance(value, str):
        return value
    people = [re.fullmatch(r"(\w+):(\S+)", word.strip()) for word in value.split(",") if word.strip()]
    if not all(found and found[1].lower() in PLATFORMS for found in people):
        raise ValueError("not all are platform:id")
    return frozenset((found[1].lower(), found[2]) for found in people if found)


def _hosts(value: object) -> object:
    hosts = _words(value.lower()) if isinstance(value, str) else value
    if isinstance(hosts, tuple) and not all(map(_HOST.fullmatch, hosts)):
        raise ValueError("not all are hosts")
    return hosts


def _roles(value: object) -> object:
    roles = _words(value.lower()) if isinstance(value, str) else value
    if isinstance(roles, tuple) and not set(roles) <= set(ROLES):
        raise ValueError("not all are roles")
    return tuple(role for role in ROLES if role in roles) if isinstance(roles, tuple) else roles


def _layers(value: object) -> object:
    return None if _lower(value) == "all" else value


def _folder(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # ~name of an unknown user
        raise ValueError(str(error)) from error


def _file(path: Path) -> Path:
    path = _folder(path)
    try:
        if path.is_file():
            return path
    except OSError as error:  # the name is too long, or the directory may not be searched
        raise ValueError(str(error)) from error
    raise ValueError("no such file")


def _certificates(path: Path) -> Path:
    path = _file(path)
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError("no certificates") from error
    return path


def _token(value: object) -> object:
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and not re.fullmatch(r"[!-~]*", text):
        raise ValueError("not a token")
    return text or None


def _command(value: str) -> str:
    name = value.strip().lower()
    name = name if name.startswith("/") else f"/{name}"
    if not re.fullmatch(r"/[a-z0-9_-]{1,31}", name):
        raise ValueError("not a slash command")
    return name


def _urls(value: object) -> object:
    urls = _words(value)
    if isinstance(urls, tuple) and not all(re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", str(url)) for url in urls):
        raise ValueError("not all are URLs")
    return urls


def _database_url(value: object) -> object:
    text = _token(value)
    if isinstance(text, str):
        from sqlalchemy.engine import make_url  # slow to import
        from sqlalchemy.exc import ArgumentError

        try:
            scheme = make_url(text).drivername
        except (ArgumentError, ValueError):
            scheme = ""
        if scheme not in ("postgresql", "postgres"):
            raise ValueError("no URL of a database")
    return text


def _arguments(value: object) -> object:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _address(value: object) -> object:
    return parse_address(value) if isinstance(value, str) else value


Choice = BeforeValidator(_lower)
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Ids = Annotated[frozenset[tuple[str, str]], BeforeValidator(_people)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
Roles = Annotated[Annotated[tuple[str, ...], Field(min_length=1)], BeforeValidator(_roles)]
Layers = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_layers)]
Folder = Annotated[Path, AfterValidator(_folder), Field(description="a directory")]
File = Annotated[Path, AfterValidator(_file)]
Certificates = Annotated[Path, AfterValidator(_certificates)]
Token = Annotated[SecretStr | None, BeforeValidator(_token)]
DatabaseUrl = Annotated[SecretStr | None, BeforeValidator(_database_url)]
HttpToken = Annotated[Annotated[SecretStr, Field(min_length=SHORTEST_TOKEN)] | None, BeforeValidator(_token)]
SlashCommand = Annotated[str, AfterValidator(_command)]
Urls = Annotated[tuple[str, ...], BeforeValidator(_urls)]
Arguments = Annotated[tuple[str, ...], BeforeValidator(_arguments)]
HttpAddress = Annotated[Address | None, BeforeValidator(_address)]
