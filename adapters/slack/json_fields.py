"""Reads fields of Slack's JSON; a field that is missing or of another type counts as empty."""

from collections.abc import Mapping
from typing import Any

from slack_sdk.web.async_slack_response import AsyncSlackResponse

Raw = Mapping[str, Any]
"""A JSON object. Any: JSON."""


def body_of(answer: AsyncSlackResponse) -> Raw:
    """The JSON of a Web API answer, an empty object if it is none."""
    return answer.data if isinstance(answer.data, dict) else {}


def text_of(raw: Raw, name: str) -> str:
    """A string field, '' if there is none."""
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def object_of(raw: Raw, name: str) -> Raw:
    """An object field, empty if there is none."""
    value = raw.get(name)
    return value if isinstance(value, Mapping) else {}


def objects_of(raw: Raw, name: str) -> list[Raw]:
    """The objects in a list field."""
    values = raw.get(name)
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []
