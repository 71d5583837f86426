"""Whether the packages that Python finds are our own: `adapters` is a common name."""

import importlib.util
from pathlib import Path

from bot.errors import ConfigError


def check_packages() -> None:
    """Raise ConfigError if Python would import another `adapters` than ours."""
    ours = Path(__file__).parents[2]
    found = importlib.util.find_spec("adapters")
    if found is None or found.origin is None or Path(found.origin).parents[1] != ours:
        where = found.origin if found and found.origin else "nowhere"
        raise ConfigError(
            f"The package 'adapters' beside {ours / 'bot'} is ours, but Python found {where}: "
            "install Inhouse in a virtual environment of its own."
        )
