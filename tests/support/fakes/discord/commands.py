"""REST: the application's commands as the bot registers them, and how a user's client fills them.

A bulk overwrite replaces all commands and keeps the ids of those whose name and type are unchanged. Like a user's
client, `command_data` offers only registered commands, checks option values, and raises AssertionError for invalid
ones.
"""

import re
from typing import Any

from tests.support.fakes.discord import checks
from tests.support.fakes.discord.bits import Can
from tests.support.fakes.discord.rest import Answer, Ask, Handler
from tests.support.fakes.discord.state import Json
from tests.support.fakes.discord.store import DiscordStore

CHAT, MESSAGE_MENU = 1, 3
STRING, INTEGER, BOOLEAN, NUMBER = 3, 4, 5, 10
OPTION_TYPES = range(3, 12)
CREATES_A_DAY = 200
_NAME = re.compile(r"[-_'\w]{1,32}")


class CommandRoutes:
    """The routes about commands, and all commands (`registered`); global and per-server commands are separate."""

    def __init__(self, store: DiscordStore) -> None:
        self._store = store
        self._by_scope: dict[str, list[Json]] = {}
        self._created: list[float] = []

    @property
    def registered(self) -> list[Json]:
        """All commands, the global ones first."""
        return [command for scope in sorted(self._by_scope) for command in self._by_scope[scope]]

    def remove(self, name: str) -> None:
        """Removes a global command."""
        self._by_scope[""] = [command for command in self._by_scope[""] if command["name"] != name]

    def routes(self) -> dict[str, Handler]:
        """Route to handler."""
        everywhere, here = (
            "/applications/{application_id}/commands",
            "/applications/{application_id}/guilds/{guild_id}/commands",
        )
        return {
            f"GET {everywhere}": self.read,
            f"PUT {everywhere}": self.overwrite,
            f"GET {here}": self.read,
            f"PUT {here}": self.overwrite,
        }

    def read(self, ask: Ask) -> Answer:
        """The commands of one scope."""
        return self._by_scope.get(ask.path.get("guild_id", ""), [])

    def overwrite(self, ask: Ask) -> Answer:
        """Replaces the commands of one scope."""
        wanted: list[Json] = ask.body.get("", [])
        if len([each for each in wanted if each.get("type", CHAT) == CHAT]) > 100:
            raise checks.ApiError(400, 30032, "Maximum number of application commands reached (100)")
        for command in wanted:
            _check(command)
        scope = ask.path.get("guild_id", "")
        ids = {(each["name"], each["type"]): each["id"] for each in self._by_scope.get(scope, [])}
        made = []
        for command in wanted:
            kind = command.get("type", CHAT)
            known = ids.get((command["name"], kind))
            filled = {"options": [], "description": "", "nsfw": False, "default_member_permissions": None} | command
            filled |= {
                "id": known or self._new_id(),
                "application_id": self._store.bot.id,
                "type": kind,
                "version": "1",
            }
            if scope:
                filled["guild_id"] = scope
            made.append(filled)
        self._by_scope[scope] = made
        return made

    def find(self, name: str, kind: int, can: Can) -> Json:
        """Finds a command that is offered to a user with these permissions."""
        for command in self.registered:
            needed = command["default_member_permissions"]
            if (command["name"], command["type"]) == (name, kind):
                assert needed is None or int(can) & int(needed) == int(needed), f"/{name} is not offered to this person"
                return command
        raise AssertionError(f"no command {name!r}; there are {[each['name'] for each in self.registered]}")

    def _new_id(self) -> str:
        now = self._store.clock.now()
        self._created = [at for at in self._created if at > now - 86400]
        if len(self._created) >= CREATES_A_DAY:
            raise checks.ApiError(400, 30034, "Max number of daily application command creates has been reached (200)")
        self._created.append(now)
        return self._store.clock.new_id()


def command_data(command: Json, values: dict[str, object], focused: str = "") -> Json:
    """The `data` of a slash command's interaction, with option values checked like in a user's client.

    `focused` is the option that is being typed (autocompletion): other options are not required and its value may be
    incomplete.
    """
    options = {option["name"]: option for option in command["options"]}
    unknown = set(values) - set(options)
    assert not unknown, f"/{command['name']} has no option {sorted(unknown)}"
    if not focused:
        missing = [name for name, option in options.items() if option.get("required") and name not in values]
        assert not missing, f"/{command['name']} needs {missing}"
    sent = [_option(options[name], value, name == focused) for name, value in values.items()]
    return {"id": command["id"], "name": command["name"], "type": command["type"], "options": sent}


def _option(option: Json, value: object, focused: bool) -> Json:
    """One option in wire format."""
    name, kind = option["name"], option["type"]
    if focused:
        assert option.get("autocomplete"), f"the option {name} does not autocomplete"
        return {"name": name, "type": kind, "value": value, "focused": True}
    fits: dict[int, Any] = {STRING: str, INTEGER: int, BOOLEAN: bool, NUMBER: (int, float)}
    assert isinstance(value, fits.get(kind, str)), f"{name} cannot be {value!r}"
    if isinstance(value, int | float):
        assert option.get("min_value", value) <= value <= option.get("max_value", value), (
            f"{name}={value} is out of range"
        )
    if isinstance(value, str) and kind == STRING:
        assert option.get("min_length", 0) <= len(value) <= option.get("max_length", 6000), f"{name} has a bad length"
    if choices := option.get("choices"):
        assert value in [choice["value"] for choice in choices], f"{name} has no choice {value!r}"
    return {"name": name, "type": kind, "value": value}


def _check(command: Json) -> None:
    """Checks Discord's rules for a command's name, description and options."""
    kind, name = command.get("type", CHAT), command.get("name")
    checks.length("name", name, 1, 32)
    if kind != CHAT:
        if command.get("description") or command.get("options"):
            raise checks.invalid("description", "Context menu commands cannot have description.")
        return
    _check_name(str(name))
    checks.length("description", command.get("description"), 1, 100)
    options = command.get("options") or []
    if len(options) > 25:
        raise checks.invalid("options", "Must be 25 or fewer in length.", "BASE_TYPE_MAX_LENGTH")
    optional = False
    for option in options:
        if option.get("type") not in OPTION_TYPES:
            raise checks.invalid("options.type", "The fake knows no subcommands.", "BASE_TYPE_CHOICES")
        _check_name(str(option.get("name")))
        checks.length("options.description", option.get("description"), 1, 100)
        if option.get("required") and optional:
            raise checks.invalid("options", "Required options must be placed before non-required options")
        optional = optional or not option.get("required")
        _check_choices(option)


def _check_choices(option: Json) -> None:
    """At most 25 choices, and none with autocompletion."""
    choices = option.get("choices") or []
    if len(choices) > 25:
        raise checks.invalid("options.choices", "Must be 25 or fewer in length.", "BASE_TYPE_MAX_LENGTH")
    if choices and option.get("autocomplete"):
        raise checks.invalid("options.choices", "Autocomplete options cannot have choices.")
    for choice in choices:
        checks.length("options.choices.name", choice.get("name"), 1, 100)


def _check_name(name: str) -> None:
    """1 to 32 lower-case word characters."""
    if not _NAME.fullmatch(name) or name != name.lower():
        raise checks.invalid("name", "Command name is invalid", "APPLICATION_COMMAND_INVALID_NAME")
