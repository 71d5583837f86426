"""A temporary certificate authority for the real host names of fake servers.

Provides SSL contexts for the fake and for clients in this process, and a PEM file for clients in another process
(SSL_CERT_FILE). The machine's own trust store is not changed.
"""

import socket
import ssl
from pathlib import Path

import trustme
from aiohttp.abc import AbstractResolver, ResolveResult


class Authority:
    """A certificate authority with one certificate for the given host names (wildcards allowed)."""

    def __init__(self, *hosts: str) -> None:
        self._authority = trustme.CA()
        self._certificate = self._authority.issue_cert(*hosts)

    def server_context(self) -> ssl.SSLContext:
        """A context for the server of these hosts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(context)
        return context

    def write_server(self, certificate: Path, key: Path) -> None:
        """Writes the hosts' certificate and its key as PEM, for a server in another process."""
        certificate.write_bytes(b"".join(each.bytes() for each in self._certificate.cert_chain_pems))
        self._certificate.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)

    def client_context(self) -> ssl.SSLContext:
        """A context for clients in this process that trusts only this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def write(self, path: Path) -> Path:
        """Writes the authority's certificate as PEM for SSL_CERT_FILE; the path."""
        self._authority.cert_pem.write_to_path(str(path))
        return path


LOOPBACK = "127.0.0.1"


class Loopback(AbstractResolver):
    """Resolves every host name to one port of this machine, so that clients keep the real names and real TLS."""

    def __init__(self, port: int, address: str = LOOPBACK) -> None:
        self._port, self._address = port, address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Always the given address."""
        return [
            ResolveResult(
                hostname=host,
                host=self._address,
                port=self._port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Does nothing: no resources are open."""
