"""Tests doctor's comparison of the hosts that use one database."""

import json
from typing import Any

import pytest

from bot.config.settings import Settings
from bot.config.shared_settings import shared_settings
from bot.doctor.host_checks import compared
from bot.storage import LiveHost
from bot.types.findings import State
from tests.support.builders.findings import complete


def host(name: str, *models: str, **settings: Any) -> LiveHost:
    """A host that is alive. settings: those that are not at their defaults."""
    return LiveHost(name, "here", frozenset(models), shared_settings(Settings(**settings)))


def test_equal_hosts_and_hosts_of_an_older_version_are_well() -> None:
    people = {f"slack:U{number}" for number in range(20)}
    hosts = [host(name, "phi-4", "qwen", admins=",".join(people), system_prompt="Rhyme.") for name in ("a", "b")]
    assert list(compared([*hosts, LiveHost("old", "", frozenset(), {})])) == []
    assert list(compared(hosts[:1])) == []
    assert list(compared([])) == []


def test_what_differs_is_named_and_not_told() -> None:
    hosts = [host("a", max_tokens=100, system_prompt="Rhyme."), host("b", temperature=0.1), host("c")]
    (found,) = compared(hosts)
    assert found.state is State.WARNING
    assert found.found == (
        "INHOUSE_MAX_TOKENS, INHOUSE_SYSTEM_PROMPT, INHOUSE_TEMPERATURE differ between a and b and c"
    )
    assert complete([found])
    assert "Rhyme" not in json.dumps([dict(each.settings) for each in hosts])


@pytest.mark.parametrize(
    ("setting", "value", "differs"),
    [("max_tokens", 100, False), ("system_prompt", "Rhyme.", True), ("device", "cpu", False)],
)
def test_a_host_that_only_answers_needs_no_settings_of_those_that_receive(
    setting: str, value: object, differs: bool
) -> None:
    worker = host("worker", roles="worker", database_url="postgresql://db/inhouse")
    assert bool(list(compared([worker, host("front", **{setting: value})]))) == differs


def test_models_that_not_all_hosts_have_are_named_with_those_that_have_them() -> None:
    hosts = [
        host("a", "phi-4", "qwen", "gemma"),
        host("b", "phi-4"),
        host("c", "phi-4", "gemma", "qwen"),
        host("front"),
    ]
    (found,) = compared(hosts)
    assert (found.state, found.found) == (State.WARNING, "gemma, qwen: only on a and c")
    assert "`inhouse pull" in found.fix
