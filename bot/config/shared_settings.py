"""Hashes the settings that should be the same on all hosts, so that they can be compared and are not told."""

import hashlib

from bot.config.settings import Settings, variable

ANSWERING = ("system_prompt", "link_hosts", "attach_over", "retention")
"""Settings that matter on each host."""
RECEIVING = (
    "model",
    "temperature",
    "top_p",
    "repetition_penalty",
    "max_tokens",
    "think_tokens",
    "admins",
    "allow",
    "deny",
    "allow_bots",
    "follow_threads",
    "reply_in_thread",
    "ambient",
    "catchup_messages",
    "catchup_age",
    "queue_size",
    "per_user",
    "deadline",
    "slack_command",
)
"""Settings that matter on hosts that receive events."""


def shared_settings(settings: Settings) -> dict[str, str]:
    """Return a short hash of each setting that other hosts should have, too, by variable."""
    names = ANSWERING + (RECEIVING if "adapters" in settings.roles else ())
    return {variable(name): _hash(getattr(settings, name)) for name in names}


def _hash(value: object) -> str:
    known = sorted(value) if isinstance(value, frozenset) else value
    return hashlib.blake2b(repr(known).encode(errors="surrogatepass"), digest_size=4).hexdigest()
