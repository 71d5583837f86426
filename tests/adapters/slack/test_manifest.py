"""Tests `inhouse slack-manifest`: the app's manifest, within Slack's limits."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from adapters.slack.bot_identity import REQUIRED, SCOPES
from adapters.slack.interactions.shortcuts import ANSWER, FORGET
from adapters.slack.setup.manifest import EVENTS, create_page, manifest, manifest_text, steps
from bot.config.settings import Settings
from bot.types.commands import COMMANDS
from tests.support.fakes.slack.subscriptions import method_scopes, needed

EVERYTHING = manifest(Settings())


def test_texts_are_no_longer_than_slack_takes() -> None:
    shown, features = EVERYTHING["display_information"], EVERYTHING["features"]
    assert len(shown["name"]) <= 35
    assert len(shown["description"]) <= 140
    assert re.fullmatch(r"#[0-9a-f]{6}", shown["background_color"])
    assert re.fullmatch(r"[\w. -]{1,80}", features["bot_user"]["display_name"])
    assert len(features["agent_view"]["agent_description"]) <= 300
    prompts = features["agent_view"]["suggested_prompts"]
    assert 1 <= len(prompts) <= 4
    assert all(each.keys() == {"title", "message"} and all(each.values()) for each in prompts)
    (command,) = features["slash_commands"]
    assert len(command["command"]) <= 32
    assert len(command["description"]) <= 2000
    assert len(command["usage_hint"]) <= 1000
    for shortcut in features["shortcuts"]:
        assert len(shortcut["name"]) <= 24
        assert len(shortcut["description"]) <= 150
        assert len(shortcut["callback_id"]) <= 255


def test_the_text_can_be_copied_from_a_terminal_of_80_columns() -> None:
    text = manifest_text(Settings(slack_command="/" + 31 * "x"))
    assert max(map(len, text.splitlines())) < 80
    assert json.loads(text) == manifest(Settings(slack_command="/" + 31 * "x"))


def test_the_slash_command_is_the_one_that_is_set_and_hints_at_others() -> None:
    (command,) = manifest(Settings(slack_command="/ask-us"))["features"]["slash_commands"]
    assert command["command"] == "/ask-us"
    hinted = command["usage_hint"].split(" | ")
    assert set(hinted) <= {each.name for each in COMMANDS}
    assert hinted[-1] == "help"
    assert command["should_escape"] is False
    assert "'/ask-us'" in steps(Settings(slack_command="/ask-us"))


def test_the_menu_of_a_message_has_what_the_bot_listens_to() -> None:
    menu = EVERYTHING["features"]["shortcuts"]
    assert {each["callback_id"]: each["name"] for each in menu} == {ANSWER: "Answer this", FORGET: "Forget this"}
    assert {each["type"] for each in menu} == {"message"}


def test_people_can_write_to_it_and_nothing_needs_an_address() -> None:
    assert EVERYTHING["features"]["app_home"]["messages_tab_enabled"] is True
    assert EVERYTHING["features"]["app_home"]["messages_tab_read_only_enabled"] is False
    settings: dict[str, Any] = EVERYTHING["settings"]  # Any: JSON
    assert settings["socket_mode_enabled"] is True
    assert settings["interactivity"] == {"is_enabled": True}
    assert (settings["org_deploy_enabled"], settings["token_rotation_enabled"]) == (False, False)
    assert "url" not in json.dumps(EVERYTHING)


METHODS = {
    "chat.postMessage": "",
    "chat.postEphemeral": "",
    "chat.update": "",
    "chat.startStream": "",
    "chat.appendStream": "",
    "chat.stopStream": "",
    "assistant.threads.setStatus": "",
    "assistant.threads.setTitle": "",
    "assistant.threads.setSuggestedPrompts": "",
    "conversations.history": "channel group im",
    "conversations.replies": "channel group im",
    "conversations.info": "channel group",
    "conversations.open": "",
    "users.info": "",
    "files.getUploadURLExternal": "",
    "files.completeUploadExternal": "",
    "files.info": "",
}
"""Every method that the adapter calls, and in which kinds of channel."""


def test_every_scope_is_one_that_something_needs_and_all_of_those_are_there() -> None:
    asked = set(EVERYTHING["oauth_config"]["scopes"]["bot"])
    assert asked == set(SCOPES)
    told = set().union(*map(needed, EVENTS))
    chosen = [method_scopes(name, kind) for name, kinds in METHODS.items() for kind in kinds.split() or [""]]
    assert told | set(REQUIRED) <= asked
    assert all(asked & set(any_of) for any_of in chosen)
    assert asked == told | {scope for any_of in chosen for scope in any_of} | {"commands"}


def test_it_hears_mentions_and_what_is_said_where_it_is() -> None:
    assert EVERYTHING["settings"]["event_subscriptions"]["bot_events"] == [
        "app_mention",
        "message.channels",
        "message.groups",
        "message.im",
    ]


@pytest.mark.parametrize("words", ["From a manifest", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "connections:write"])
def test_the_steps_lead_to_the_tokens(words: str) -> None:
    assert words in steps(Settings())


def test_the_page_that_creates_the_app_can_have_the_manifest_filled_in() -> None:
    asked = parse_qs(urlsplit(create_page(Settings())).query)
    assert json.loads(asked["manifest_json"][0]) == EVERYTHING
    assert create_page().endswith("/apps?new_app=1")
