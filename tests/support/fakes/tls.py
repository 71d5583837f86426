"""Certificates for host names that are not ours: a throw-away authority, trusted only by who is given its file.

In: host names. Out: an SSL context for the fake that plays them, one for clients in this process, and the authority's
PEM file for clients in another process (SSL_CERT_FILE). Nothing touches the machine's own trust store.
"""

import socket
import ssl
from pathlib import Path

import trustme
from aiohttp.abc import AbstractResolver, ResolveResult


class Authority:
    """One certificate authority, with a certificate for the given host names (wildcards allowed)."""

    def __init__(self, *hosts: str) -> None:
        self._authority = trustme.CA()
        self._certificate = self._authority.issue_cert(*hosts)

    def server_context(self) -> ssl.SSLContext:
        """For the server that answers in the hosts' names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For clients in this process: trusts this authority and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def write(self, path: Path) -> Path:
        """Write the authority's certificate as PEM, to be named by SSL_CERT_FILE; the path."""
        self._authority.cert_pem.write_to_path(str(path))
        return path


class Loopback(AbstractResolver):
    """Resolves every host name to one port of this machine, so that clients keep the real names and real TLS."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The one address there is."""
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=self._port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing is held open."""
