"""A service for tests: over a tiny model, with workers in threads of this process, or as a process of its own."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from scail2.serving.app import build_app
from scail2.serving.client import Client
from scail2.serving.server import bound
from scail2.serving.service import Service
from scail2.serving.settings import ServiceSettings
from scail2.serving.work import JobRunner, Order, Outcome, StoppedError


class ThreadWorker:
    """Does orders in the thread that asks, with the runner of the real workers.

    ``hold`` can be cleared to keep jobs at their first step.
    """

    def __init__(self, device: str | None = None) -> None:
        self.runner = JobRunner()
        self.hold = threading.Event()
        self.hold.set()
        self.cancelled: set[int] = set()
        self.closed = False

    def do(self, order: Order, listener: Any) -> Outcome:
        def listen(event: dict[str, Any]) -> None:
            listener(event)
            while event["event"] == "step" and not self.hold.wait(0.01):
                self._check(order)
            self._check(order)

        return self.runner.run(order, listen)

    def _check(self, order: Order) -> None:
        if self.closed or order.job in self.cancelled:
            raise StoppedError

    def cancel(self, job: int) -> None:
        self.cancelled.add(job)

    def close(self) -> None:
        self.closed = True


@contextmanager
def served(settings: ServiceSettings, make_worker: Any = ThreadWorker) -> Iterator[httpx.Client]:
    """An HTTP client of a service that listens on loopback, in a thread of this process."""
    with bound(replace(settings, port=0)) as place, Service(settings, make_worker) as service:
        server = uvicorn.Server(uvicorn.Config(build_app(service), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            while not server.started:
                thread.join(0.02)
            with httpx.Client(base_url=f"http://127.0.0.1:{place.getsockname()[1]}", timeout=60) as http:
                yield http
        finally:
            server.should_exit = True
            thread.join(30)


def typed_client(http: httpx.Client) -> Client:
    """`Client` of the same service."""
    return Client(str(http.base_url))


def start_server(runs: Path, model: Path, *options: str, env: dict[str, str] | None = None) -> tuple[Any, str]:
    """`scail2 serve` as a process on a free port; the process and its address."""
    command = [
        sys.executable,
        "-m",
        "scail2",
        "serve",
        "--runs",
        str(runs),
        "--port",
        "0",
        "--model",
        str(model),
        *options,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://[\d.]+:\d+", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[0]
    raise AssertionError(f"the server ended with {process.wait()}")
