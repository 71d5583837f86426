"""Slack's limits of texts, blocks and metadata, checked before anything changes.

Raises `SlackError` with Slack's error code. Uses slack_sdk's models for blocks, and adds the checks that those lack.
"""

import logging
import warnings

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block

from tests.support.fakes.slack.asks import SlackError
from tests.support.fakes.slack.reading import elements
from tests.support.fakes.slack.state import Json

MAX_TEXT = 40_000
MAX_UPDATE = 4_000
MAX_MARKDOWN = 12_000
MAX_ALL_BLOCKS = 13_200
MAX_BLOCKS = 50
MAX_BUTTON_TEXT, MAX_VALUE, MAX_ACTION_ID = 75, 2_000, 255
MAX_METADATA = 8_000
_ONLY_IN_VIEWS = {"input"}


def markdown_text(text: str) -> None:
    """Checks the markdown_text of a post or of a stream's chunk."""
    if len(text) > MAX_MARKDOWN:
        raise SlackError("msg_too_long")


def blocks(items: list[Json], most: int = MAX_BLOCKS, in_view: bool = False) -> None:
    """Checks a list of blocks, each and all together."""
    if len(items) > most:
        raise SlackError("invalid_blocks", f"no more than {most} items allowed [json-pointer:/blocks]")
    for at, item in enumerate(items):
        if not in_view and item.get("type") in _ONLY_IN_VIEWS:
            raise SlackError("invalid_blocks", f"unsupported type: {item.get('type')} [json-pointer:/blocks/{at}/type]")
        _one(item, at)
    if sum(len(str(item.get("text", ""))) for item in items if item["type"] == "markdown") > MAX_MARKDOWN:
        raise SlackError("msg_blocks_too_long")
    if sum(_length(item) for item in items) > MAX_ALL_BLOCKS and not in_view:
        raise SlackError("msg_blocks_too_long")
    ids = [item["block_id"] for item in items if item.get("block_id")]
    if len(ids) != len(set(ids)):
        raise SlackError("invalid_blocks", "block_id already exists [json-pointer:/blocks]")


def metadata(value: Json | None) -> None:
    """Checks a message's metadata: an event_type and an event_payload object, limited in size."""
    if value is None:
        return
    payload = value.get("event_payload")
    if not isinstance(value.get("event_type"), str) or not value["event_type"] or not isinstance(payload, dict):
        raise SlackError("invalid_metadata_format")
    if len(str(value)) > MAX_METADATA:
        raise SlackError("metadata_too_large")


def _one(item: Json, at: int) -> None:
    """Checks one block with slack_sdk's models; Slack rejects unknown keys, for which the models only warn."""
    logging.getLogger("slack_sdk.models").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = Block.parse(item)
            if parsed is None:
                raise SlackError("invalid_blocks", f"unsupported type: {item.get('type')} [json-pointer:/blocks/{at}]")
            parsed.validate_json()
    except (SlackObjectFormationError, TypeError, ValueError, AttributeError, KeyError, UserWarning) as error:
        raise SlackError("invalid_blocks", f"{error} [json-pointer:/blocks/{at}]") from None
    _texts(item, at)
    pressed = elements([item])
    for element in pressed:
        _element(element, at)
    ids = [element["action_id"] for element in pressed if element.get("action_id")]
    if len(ids) != len(set(ids)):
        raise SlackError("invalid_blocks", f"`action_id` already exists [json-pointer:/blocks/{at}/elements]")
    if item["type"] in ("actions", "context_actions", "context") and not item.get("elements"):
        raise SlackError("invalid_blocks", f"no fewer than 1 items required [json-pointer:/blocks/{at}/elements]")


def _texts(item: Json, at: int) -> None:
    """Checks that texts of a section, header or context are non-empty objects of the right type."""
    where = f"[json-pointer:/blocks/{at}/text]"
    found = [item["text"]] if item["type"] in ("section", "header") and item.get("text") else []
    if item["type"] == "context":
        found = [each for each in item.get("elements") or [] if each.get("type") != "image"]
    for text in [*found, *(item.get("fields") or [])]:
        if not isinstance(text, dict) or text.get("type") not in ("mrkdwn", "plain_text"):
            raise SlackError("invalid_blocks", f"must provide an object {where}")
        if not text.get("text"):
            raise SlackError("invalid_blocks", f"must be more than 0 characters {where}")
    if any(len(text["text"]) > 2_000 for text in item.get("fields") or []):
        raise SlackError("invalid_blocks", f"must be less than 2001 characters {where}")
    if item["type"] == "header" and (item.get("text") or {}).get("type") != "plain_text":
        raise SlackError("invalid_blocks", f"must be plain_text {where}")


def _element(element: Json, at: int) -> None:
    """Checks a button or menu: its text, value and action_id."""
    where = f"[json-pointer:/blocks/{at}/elements]"
    label = element.get("text")
    if element["type"] == "button":
        if not isinstance(label, dict) or label.get("type") != "plain_text" or not label.get("text"):
            raise SlackError("invalid_blocks", f"a button needs a plain_text {where}")
        if len(label["text"]) > MAX_BUTTON_TEXT:
            raise SlackError("invalid_blocks", f"must be less than {MAX_BUTTON_TEXT + 1} characters {where}")
        if element.get("style") not in (None, "primary", "danger"):
            raise SlackError("invalid_blocks", f"unknown style {where}")
    if len(str(element.get("value") or "")) > MAX_VALUE:
        raise SlackError("invalid_blocks", f"must be less than {MAX_VALUE + 1} characters {where}/value")
    if len(str(element.get("action_id") or "")) > MAX_ACTION_ID:
        raise SlackError("invalid_blocks", f"must be less than {MAX_ACTION_ID + 1} characters {where}/action_id")


def _length(item: Json) -> int:
    """The characters of a block that count towards the limit of all blocks."""
    text = item.get("text")
    if isinstance(text, dict):
        text = text.get("text")
    more = (
        [*(item.get("fields") or []), *(item.get("elements") or [])] if item["type"] in ("section", "context") else []
    )
    return len(str(text or "")) + sum(len(str(each.get("text") or "")) for each in more)
