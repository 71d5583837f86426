"""Discord's validation rules for messages, embeds and components, one function each.

The functions take the client's JSON and raise `ApiError` with Discord's status, code and text.
"""

from collections.abc import Iterator, Mapping

from tests.support.fakes.discord.state import SUPPRESS_EMBEDS, SUPPRESS_NOTIFICATIONS, File, Json

MAX_FILE = 10 * 1024 * 1024
EMBED_LIMITS = {"title": 256, "description": 4096}


class ApiError(Exception):
    """An error response."""

    def __init__(self, status: int, code: int, message: str, errors: Json | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"message": message, "code": code} | ({"errors": errors} if errors else {})


def invalid(field: str, reason: str, code: str = "INVALID") -> ApiError:
    """50035: one field of the body is invalid."""
    errors: Json = {"_errors": [{"code": code, "message": reason}]}
    for part in reversed(field.split(".")):
        errors = {part: errors}
    return ApiError(400, 50035, "Invalid Form Body", errors)


def missing_permissions() -> ApiError:
    """50013: visible, but not allowed."""
    return ApiError(403, 50013, "Missing Permissions")


def unknown(what: str, code: int) -> ApiError:
    """A 404 for a resource."""
    return ApiError(404, code, f"Unknown {what}")


def length(field: str, text: object, least: int, most: int) -> None:
    """Checks that a text has between `least` and `most` characters."""
    if not isinstance(text, str) or not least <= len(text) <= most:
        raise invalid(field, f"Must be between {least} and {most} in length.", "BASE_TYPE_BAD_LENGTH")


def message(body: Mapping[str, object], files: list[File]) -> None:
    """Checks the body of a new message, an edit, or an interaction response, except for emptiness."""
    content = body.get("content")
    if content is not None:
        length("content", content, 0, 2000)
    flags = body.get("flags") or 0
    if not isinstance(flags, int):
        raise invalid("flags", "Not an integer.", "NUMBER_TYPE_COERCE")
    embeds(body.get("embeds") or [])
    components(body.get("components") or [])
    allowed_mentions(body.get("allowed_mentions"))
    if len(files) > 10:
        raise invalid("attachments", "Must be 10 or fewer in length.", "BASE_TYPE_MAX_LENGTH")
    if any(len(file.data) > MAX_FILE for file in files):
        raise ApiError(413, 40005, "Request entity too large")


def new_message(body: Mapping[str, object], files: list[File]) -> None:
    """Checks a new message: its body, its nonce and flags, and that it is not empty."""
    message(body, files)
    nonce = body.get("nonce")
    if nonce is not None:
        length("nonce", str(nonce), 1, 25)
    if int(str(body.get("flags") or 0)) & ~(SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS):
        raise invalid("flags", "Only SUPPRESS_EMBEDS and SUPPRESS_NOTIFICATIONS can be set.")
    not_empty(body.get("content"), body.get("embeds"), files)


def not_empty(content: object, embeds_: object, files: list[File]) -> None:
    """50006: a message needs text, an embed or a file; buttons alone or white space are not enough."""
    if not str(content or "").strip() and not embeds_ and not files:
        raise ApiError(400, 50006, "Cannot send an empty message")


def embeds(items: object) -> None:
    """Checks embeds: at most 10, with at most 6,000 characters together."""
    if not isinstance(items, list) or len(items) > 10:
        raise invalid("embeds", "Must be 10 or fewer in length.", "BASE_TYPE_MAX_LENGTH")
    total = 0
    for index, embed in enumerate(items):
        for field, most in EMBED_LIMITS.items():
            length(f"embeds.{index}.{field}", embed.get(field) or "", 0, most)
            total += len(embed.get(field) or "")
        footer = (embed.get("footer") or {}).get("text") or ""
        length(f"embeds.{index}.footer.text", footer, 0, 2048)
        fields = embed.get("fields") or []
        if len(fields) > 25:
            raise invalid(f"embeds.{index}.fields", "Must be 25 or fewer in length.", "BASE_TYPE_MAX_LENGTH")
        for field in fields:
            length(f"embeds.{index}.fields", field.get("name"), 1, 256)
            length(f"embeds.{index}.fields", field.get("value"), 1, 1024)
            total += len(field["name"]) + len(field["value"])
        total += len(footer)
    if total > 6000:
        raise invalid("embeds", "Embed size exceeds maximum size of 6000", "MAX_EMBED_SIZE_EXCEEDED")


def components(rows: object) -> None:
    """Checks components: at most five rows of at most five buttons, with unique custom_ids; no other components."""
    if not isinstance(rows, list) or len(rows) > 5:
        raise invalid("components", "Must be 5 or fewer in length.", "BASE_TYPE_MAX_LENGTH")
    seen: set[str] = set()
    for row in rows:
        if row.get("type") != 1 or not 1 <= len(row.get("components") or []) <= 5:
            raise invalid("components", "Must be an action row of 1 to 5 components.", "BASE_TYPE_BAD_LENGTH")
        for custom_id in _buttons(row["components"]):
            if custom_id in seen:
                raise invalid(
                    "components", "Component custom id cannot be duplicated", "COMPONENT_CUSTOM_ID_DUPLICATED"
                )
            seen.add(custom_id)


def _buttons(items: list[Json]) -> Iterator[str]:
    """Checks a row's buttons and yields their custom_ids."""
    for button in items:
        if button.get("type") != 2 or button.get("style") not in range(1, 6):
            raise invalid("components", "Value must be a button with a style from 1 to 5.", "UNION_TYPE_CHOICES")
        if not button.get("label") and not button.get("emoji"):
            raise invalid("components", "A button must have a label or an emoji.", "BUTTON_COMPONENT_EMPTY")
        length("components.label", button.get("label") or "", 0, 80)
        if button["style"] == 5:
            length("components.url", button.get("url"), 1, 512)
            continue
        length("components.custom_id", button.get("custom_id"), 1, 100)
        yield button["custom_id"]


def allowed_mentions(value: object) -> None:
    """`parse` and the lists of ids exclude each other."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise invalid("allowed_mentions", "Not an object.", "MODEL_TYPE_CONVERT")
    parse = value.get("parse") or []
    if set(parse) - {"users", "roles", "everyone"}:
        raise invalid("allowed_mentions.parse", "Value must be one of users, roles, everyone.", "BASE_TYPE_CHOICES")
    for kind in ("users", "roles"):
        if kind in parse and value.get(kind):
            raise invalid("allowed_mentions", f"parse:[{kind!r}] and {kind}: [ids...] are mutually exclusive.")
