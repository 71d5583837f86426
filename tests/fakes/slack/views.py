"""Views: modals and the app's home, as views.open, push, update and publish make them.

In: a trigger_id that is not older than three seconds, and a view within Slack's limits (judged by slack_sdk's models).
Out: `View`s that people see and submit.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.views import View as ViewModel

from tests.fakes.slack import checks, payloads
from tests.fakes.slack.api import Handler
from tests.fakes.slack.asks import Ask, SlackError
from tests.fakes.slack.interactions import Desk
from tests.fakes.slack.log import Ack
from tests.fakes.slack.state import Json, User
from tests.fakes.slack.world import World

MAX_BLOCKS, MAX_BYTES = 100, 250_000


@dataclass(eq=False)
class View:
    """One view of one person. `json` is what the app sent, `errors` what it said of the last submission."""

    id: str
    user: User
    json: Json
    hash: str
    closed: bool = False
    errors: Json | None = None

    def payload(self) -> Json:
        """The view as the app gets it back."""
        known = {"id": self.id, "team_id": payloads.TEAM_ID, "app_id": payloads.APP_ID, "hash": self.hash}
        rest = {"state": {"values": {}}, "bot_id": "", "root_view_id": self.id, "previous_view_id": None}
        return {"private_metadata": "", "callback_id": "", "external_id": "", **self.json, **known, **rest}

    def state(self, values: Mapping[str, Json]) -> Json:
        """The view as it is submitted, with what was filled in by action_id."""
        filled: Json = {}
        for at, block in enumerate(self.json.get("blocks") or []):
            element = block.get("element")
            if block.get("type") == "input" and isinstance(element, dict):
                chosen = values.get(element.get("action_id", ""), {})
                filled[block.get("block_id", f"block{at}")] = {
                    element["action_id"]: {"type": element["type"], **chosen}
                }
        return self.payload() | {"state": {"values": filled}}

    def answered(self, ack: Ack | None) -> None:
        """What the ack of a submission does to the view: it closes, changes or shows errors."""
        answer = (ack.payload or {}) if ack is not None else {"response_action": "none"}
        action, self.errors = answer.get("response_action"), answer.get("errors")
        if action in ("update", "push"):
            self.json = answer["view"]
        elif action in (None, "clear"):
            self.closed = True


class ViewMethods:
    """The methods about views, and all views that there were."""

    def __init__(self, world: World, desk: Desk) -> None:
        self._world, self._desk = world, desk
        self.all: list[View] = []

    def methods(self) -> dict[str, Handler]:
        """Method -> handler."""
        return {
            "views.open": self.open,
            "views.push": self.open,
            "views.update": self.update,
            "views.publish": self.publish,
        }

    def open(self, ask: Ask) -> Json:
        """A modal for who made the interaction of the trigger."""
        content = self._checked(ask, "modal")
        interaction = self._desk.exchange(ask.required("trigger_id"))
        view = View(self._world.clock.new_id("V"), interaction.user, content, self._hash())
        self.all.append(view)
        interaction.views.append(view)
        return {"view": view.payload()}

    def update(self, ask: Ask) -> Json:
        """Show something else in a view; with a hash, only if nobody did so meanwhile."""
        found = next((each for each in self.all if each.id == ask.required("view_id")), None)
        if found is None or found.closed:
            raise SlackError("not_found")
        if ask.text("hash") not in ("", found.hash):
            raise SlackError("hash_conflict")
        found.json, found.hash = self._checked(ask, str(found.json["type"])), self._hash()
        return {"view": found.payload()}

    def publish(self, ask: Ask) -> Json:
        """Somebody's home of the app."""
        user = self._world.users.get(ask.required("user_id"))
        if user is None:
            raise SlackError("user_not_found")
        view = View(self._world.clock.new_id("V"), user, self._checked(ask, "home"), self._hash())
        self.all.append(view)
        return {"view": view.payload()}

    def _checked(self, ask: Ask, kind: str) -> Json:
        content = ask.mapping("view", "invalid_arguments")
        if content is None or content.get("type") != kind:
            raise SlackError("invalid_arguments", f"a view of the type {kind} is needed [json-pointer:/view/type]")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                ViewModel(**content).validate_json()
        except (SlackObjectFormationError, TypeError, ValueError, AttributeError, UserWarning) as error:
            raise SlackError("invalid_arguments", f"{error} [json-pointer:/view]") from None
        checks.blocks(content.get("blocks") or [], MAX_BLOCKS, in_view=True)
        if len(json.dumps(content).encode()) > MAX_BYTES:
            raise SlackError("view_too_large")
        return content

    def _hash(self) -> str:
        return f"{self._world.clock.new_ts()}.hash"
