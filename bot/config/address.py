"""Parse and classify network addresses: INHOUSE_HTTP, the Host header of a request, the address of a client."""

import ipaddress
import re
from dataclasses import dataclass

OFF = ("off", "none", "no")

_SHAPE = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})")
_HOST = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]++)*+\.?))(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name or IP address without brackets) and a TCP port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def parse_address(text: str) -> Address | None:
    """Parse '127.0.0.1:8321', '[::1]:8321' or 'name:8321'; None for a word of OFF. Raises ValueError."""
    text = text.strip()
    if text.lower() in OFF:
        return None
    found = _SHAPE.fullmatch(text)
    if found is None or int(found["port"]) > 65_535:
        raise ValueError("not an address")
    if found["six"]:
        ipaddress.IPv6Address(found["six"])
    return Address(found["six"] or found["name"].lower(), int(found["port"]))


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address is a loopback one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_host(text: str) -> str:
    """Return the host of a Host header in lower case, without brackets, port and final dot.

    Raises ValueError if the header is malformed.
    """
    found = _HOST.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65_535:
        raise ValueError("not a Host header")
    if found["six"]:
        return str(ipaddress.IPv6Address(found["six"]))
    return str(found["name"]).lower().removesuffix(".")


def network_of(host: str) -> str:
    """The network that a single client usually controls: the IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))
