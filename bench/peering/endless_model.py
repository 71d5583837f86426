"""Makes a copy of a model's directory in which no token ends an answer, for the bot, which has no setting for that.

The other servers are told to ignore the end token with each request.
"""

import json
from pathlib import Path
from typing import Any

CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
TEMPLATE = "chat_template.jinja"


def endless(model: Path, into: Path) -> Path:
    """Links all files of `model` into the new directory `into`, except the configs and the template, which are changed.

    The configs name no end token. In the template a full stop precedes it, since the bot ends an answer at the control
    token that the template writes right after one.
    """
    into.mkdir()
    token: str = json.loads((model / "tokenizer_config.json").read_text("utf-8"))["eos_token"]
    for file in model.iterdir():
        if file.name in CONFIGS:
            config: dict[str, Any] = json.loads(file.read_text("utf-8"))
            kept = {name: value for name, value in config.items() if name not in ("eos_token", "eos_token_id")}
            (into / file.name).write_text(json.dumps(kept), "utf-8")
        elif file.name == TEMPLATE:
            (into / file.name).write_text(file.read_text("utf-8").replace(token, f".{token}"), "utf-8")
        else:
            (into / file.name).symlink_to(file.resolve())
    return into
