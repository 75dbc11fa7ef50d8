"""A server on this machine that speaks as much of the chat-completions protocol as the client needs, by a script."""

import base64
import io
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def form(self) -> str:
        """json_schema, json_object or prompt."""
        return self.body.get("response_format", {}).get("type", "prompt")

    @property
    def schema(self) -> dict[str, Any]:
        """The strict schema that was sent."""
        return self.body["response_format"]["json_schema"]

    @property
    def text(self) -> str:
        """All text of all messages."""
        return "\n".join(part["text"] for part in self._parts() if part["type"] == "text")

    @property
    def pictures(self) -> list[np.ndarray]:
        """The pictures, decoded: uint8 (H, W, 3)."""
        return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for _, content in self.encoded()]

    def encoded(self) -> list[tuple[str, bytes]]:
        """(media type, bytes) of each picture."""
        urls = [part["image_url"]["url"] for part in self._parts() if part["type"] == "image_url"]
        split = [url.removeprefix("data:").split(";base64,") for url in urls]
        return [(kind, base64.b64decode(content)) for kind, content in split]

    def _parts(self) -> list[dict[str, Any]]:
        parts = []
        for message in self.body["messages"]:
            content = message["content"]
            parts += content if isinstance(content, list) else [{"type": "text", "text": content}]
        return parts


@dataclass(frozen=True)
class Turn:
    """One answer of the server.

    Attributes:
        content: the model's text, or a JSON-able value that it is to write.
        usage: (prompt, answer) tokens; None leaves them out.
        raw: the whole body instead.
        closes: closes the connection after the head, before the body is complete.
        hangs: sends the whole body without its length, and does not close until the server ends.
    """

    content: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    refusal: str | None = None
    usage: tuple[int, int] | None = (100, 10)
    raw: bytes | None = None
    closes: bool = False
    hangs: bool = False

    def payload(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.content}}).encode()
        text = self.content if isinstance(self.content, str) or self.content is None else json.dumps(self.content)
        message = {"role": "assistant", "content": text}
        if self.refusal is not None:
            message |= {"content": None, "refusal": self.refusal}
        told: dict[str, Any] = {
            "id": "1", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": self.finish, "message": message}],
        }  # fmt: skip
        if self.usage is not None:
            told["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), self.usage, strict=True))
            told["usage"]["total_tokens"] = sum(each for each in self.usage if isinstance(each, int))
        return json.dumps(told).encode()


def busy(status: int = 429, milliseconds: int = 1, message: str = "busy") -> Turn:
    """A server that wants to be asked again soon."""
    return Turn(message, status=status, headers={"retry-after-ms": str(milliseconds)})


@dataclass
class ScriptedEndpoint:
    """Plays `script` turn by turn; what comes after it, `answers` decides, or the last turn is repeated."""

    script: list[Turn] = field(default_factory=list)
    answers: Callable[[Asked], Turn] | None = None
    asked: list[Asked] = field(default_factory=list)
    address: str = ""
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, asked: Asked) -> Turn:
        with self.lock:
            self.asked.append(asked)
            place = len(self.asked) - 1
            if place < len(self.script):
                return self.script[place]
        return self.answers(asked) if self.answers else self.script[-1]

    @property
    def forms(self) -> list[str]:
        """The form of each request in order."""
        return [asked.form for asked in self.asked]


@contextmanager
def scripted_endpoint(*script: Turn, answers: Callable[[Asked], Turn] | None = None):
    """A running `ScriptedEndpoint` on a free port of 127.0.0.1."""
    endpoint = ScriptedEndpoint(list(script), answers)
    handler = type("Handler", (_Handler,), {"endpoint": endpoint})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    endpoint.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: ScriptedEndpoint

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        turn = self.endpoint.turn(Asked(self.path, headers, body))
        payload = turn.payload()
        self.send_response(turn.status)
        self.send_header("Content-Type", "application/json")
        for name, value in turn.headers.items():
            self.send_header(name, value)
        if not turn.hangs:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload[: len(payload) // 2] if turn.closes else payload)
        self.close_connection = turn.closes or turn.hangs
        if turn.hangs:
            self.wfile.flush()
            self.endpoint.ended.wait(60)

    def log_message(self, *_):
        pass
