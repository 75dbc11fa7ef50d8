"""A server on this machine that speaks as much of the Hub's protocol as a download needs, and misbehaves on request."""

import hashlib
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Hub:
    """What is served, what goes wrong, and what was asked for.

    Attributes:
        files: (repository, path) -> content.
        small: paths that are kept in git itself: their tag is git's hash, not SHA-256.
        tags: path -> a tag other than the content's.
        gated: repositories that ask for consent.
        broken: status codes that the next requests for contents get; 200 is a proper answer.
        cut: bytes after which the next answers end early, with the connection.
        ignores_ranges: whether every answer is the whole file.
        storage: another server, to which contents are redirected as the Hub redirects large files.
        requests: (method, path, range) in order.
        logins: their Authorization headers.
    """

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    small: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    ignores_ranges: bool = False
    storage: "Hub | None" = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)
    address: str = ""

    def ranges(self) -> list[str | None]:
        """What the requests for contents asked for."""
        return [asked for method, _, asked in self.requests if method == "GET"]


@contextmanager
def hub_server():
    """A running `Hub` on a free port of 127.0.0.1."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that hangs up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool):
        hub, asked = self.hub, self.headers.get("Range")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
        repository, revision, path = found.groups()
        hub.requests.append((self.command, path, asked))
        hub.logins.append(self.headers.get("Authorization"))
        if repository in hub.gated:
            return self._refuse(401, "GatedRepo")
        if body and hub.broken and (status := hub.broken.pop(0)) != 200:
            return self._refuse(status)
        if repository not in {each for each, _ in hub.files}:
            return self._refuse(404, "RepoNotFound")
        if revision not in ("main", REVISION):
            return self._refuse(404, "RevisionNotFound")
        if (repository, path) not in hub.files:
            return self._refuse(404, "EntryNotFound")
        return self._send(hub.files[repository, path], path, asked, body)

    def _send(self, content: bytes, path: str, asked: str | None, body: bool):
        hub, start = self.hub, 0
        if hub.storage is not None:
            self._redirect(content)
            return
        if asked and not hub.ignores_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        proper = git_hash(content) if path in hub.small else hashlib.sha256(content).hexdigest()
        self.send_header("ETag", f'"{hub.tags.get(path, proper)}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        if hub.cut:
            self.wfile.write(content[start : start + hub.cut.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def _redirect(self, content: bytes):
        self.send_response(302)
        self.send_header("Location", f"{self.hub.storage.address}{self.path}")
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self, status: int, code: str | None = None):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
