"""Tests the parsing of addresses."""

import pytest

from bot.config.address import Address, is_loopback, parse_address


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:8321", Address("127.0.0.1", 8321), "127.0.0.1:8321"),
        (" LocalHost:0 ", Address("localhost", 0), "localhost:0"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535), "0.0.0.0:65535"),
        ("bot.example.org:8321", Address("bot.example.org", 8321), "bot.example.org:8321"),
    ],
)
def test_a_host_and_a_port(text: str, address: Address, shown: str) -> None:
    assert parse_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize("text", ["off", "none", "OFF", " no "])
def test_switched_off(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    "text", ["", "8321", ":8321", "127.0.0.1", "127.0.0.1:", "a b:1", "::1:80", "[::g]:80", "[1]:80", "x:65536", "x:-1"]
)
def test_anything_else_is_a_mistake(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_address(text)


def test_what_only_this_machine_can_reach() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "localhost.example.org", "", "127.0.0.1.nip.io"]))
