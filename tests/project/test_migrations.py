"""Tests that the migrations are one line, also after two branches were joined that each added one."""

from pathlib import Path

from bot.storage import migrations
from bot.storage.schema_version import known_versions, newest


def test_migrations_are_numbered_without_gaps_and_repetitions() -> None:
    folder = Path(migrations.__path__[0]) / "versions"
    numbers = sorted(path.name.partition("_")[0] for path in folder.glob("0*.py"))
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    assert known_versions() == frozenset(numbers)
    assert newest() == numbers[-1]
