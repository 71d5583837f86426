"""A fake Hugging Face Hub on loopback with the real wire format, scripted repositories, tokens and faults.

Use it as `with FakeHub() as hub`. `hub.requests` records every request with its Range.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""From this size in bytes on, files are stored like LFS files: by their sha256."""


@dataclass
class Repo:
    """One repository. announced: sizes that the listing claims. damaged: files whose transferred bytes are wrong."""

    files: dict[str, bytes]
    gated: bool = False
    licence: str = "mit"
    announced: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)


class FakeHub:
    """`repos` by org/name, `accounts` by token; tokens in `granted` see gated repositories; a `status` fails all
    requests."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.accounts: dict[str, str] = {}
        self.granted: set[str] = set()
        self.status = 0
        self.cut_once: dict[str, int] = {}
        """Files whose next transfer breaks off, and after how many bytes."""
        self.held: dict[str, threading.Event] = {}
        """Files whose transfers stop in the middle until the event is set."""
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and Range of each request."""
        self.agents: list[str] = []
        """User-Agent of each request."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def fetched(self, name: str) -> list[str]:
        """The Range of every GET of a file."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(f"/{name}")]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        self.hub.agents.append(self.headers.get("User-Agent", ""))
        words = path.strip("/").split("/")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.hub.status:
            self._refuse(self.hub.status, "", "the hub is ill")
        elif token and token not in self.hub.accounts:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif words == ["api", "whoami-v2"]:
            access = {"displayName": "for inhouse", "role": "read"}
            self._json({"name": self.hub.accounts[token], "type": "user", "auth": {"accessToken": access}})
        elif words[:2] == ["api", "models"]:
            self._listing("/".join(words[2:4]), token)
        else:
            self._file("/".join(words[:2]), unquote("/".join(words[4:])), token)

    def _listing(self, name: str, token: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        siblings = [_sibling(file, content, repo.announced.get(file)) for file, content in repo.files.items()]
        gated = "manual" if repo.gated else False
        card = {"license": repo.licence}
        self._json({"id": name, "sha": COMMIT, "gated": gated, "siblings": siblings, "cardData": card})

    def _file(self, name: str, file: str, token: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._refuse(404, "", "Not found")
            return
        if repo.gated and token not in self.hub.granted:
            self._refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted")
            return
        if file not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        content = repo.files[file]
        sent = b"\0" * len(content) if file in repo.damaged else content
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(sent) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(sent) - 1}/{len(sent)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if (goes_on := self.hub.held.get(file)) is not None:
            half = (start + len(sent)) // 2
            self.wfile.write(sent[start:half])
            goes_on.wait()
            start = half
        cut = self.hub.cut_once.pop(file, None)
        self.wfile.write(sent[start:] if cut is None else sent[start : start + cut])
        if cut is not None:
            self.close_connection = True

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sibling(file: str, content: bytes, announced: int | None) -> dict[str, object]:
    size = len(content) if announced is None else announced
    plain: dict[str, object] = {"rfilename": file, "size": size, "blobId": _etag(content)}
    if len(content) < LARGE:
        return plain
    return plain | {"lfs": {"sha256": _etag(content), "size": size, "pointerSize": 134}}


def _etag(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
