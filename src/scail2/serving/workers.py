"""Workers as the server sees them: given an order, they tell events and an outcome, or die."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

from scail2.errors import InputError
from scail2.serving.work import Order, Outcome

Listener = Callable[[dict[str, Any]], None]


class WorkerDiedError(RuntimeError):
    """The worker ended in the middle of an order."""


class Worker(Protocol):
    """Does one order at a time."""

    def do(self, order: Order, listener: Listener) -> Outcome:
        """Blocks until the order is done. Raises `WorkerDiedError`; the next call has a new worker."""

    def cancel(self, job: int) -> None:
        """Asks to stop a job at its next step; from any thread."""

    def close(self) -> None:
        """Ends the worker."""


class ProcessWorker:
    """A process of this machine, started with its first order and again when it died.

    Args:
        device: ``cuda:N`` makes that one of the cards that this process may see the only one it sees; others are passed on to the
            run.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._process: subprocess.Popen[str] | None = None
        self._writing = threading.Lock()
        self._cancelled: set[int] = set()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process, None before its first order."""
        return self._process.pid if self._process is not None else None

    def do(self, order: Order, listener: Listener) -> Outcome:
        process = self._running()
        self._say({"order": asdict(order)})
        if order.job in self._cancelled:  # before there was a process to tell
            self._say({"cancel": order.job})
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "outcome" in said:
                return Outcome(**said["outcome"])
            listener(said["event"])
        process.wait()
        raise WorkerDiedError(f"the worker process ended with code {process.returncode}")

    def cancel(self, job: int) -> None:
        self._cancelled.add(job)
        self._say({"cancel": job})

    def close(self) -> None:
        """Ends its input, which stops it at the next step; after ten seconds it is killed."""
        with self._writing:
            self._closed = True
            process = self._process
            if process is None or process.stdin is None:
                return
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _running(self) -> "subprocess.Popen[str]":
        with self._writing:
            if self._closed:
                raise WorkerDiedError("the service is stopping")
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "scail2.serving.worker_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    bufsize=1,
                    env=self._environment(),
                    start_new_session=True,  # Ctrl-C in the server's terminal is the server's to pass on
                )
            return self._process

    def _environment(self) -> dict[str, str]:
        card = visible_card(self._device)
        return dict(os.environ) | ({} if card is None else {"CUDA_VISIBLE_DEVICES": card})

    def _say(self, what: dict[str, Any]) -> None:
        with self._writing:
            process = self._process
            if process is None or process.stdin is None:
                return
            with suppress(BrokenPipeError, ValueError):  # it died: the reader of its output notices
                process.stdin.write(json.dumps(what) + "\n")
                process.stdin.flush()


def visible_card(device: str | None) -> str | None:
    """What makes ``cuda:N`` the only card that a process sees: counted among those that this one may see; None for other devices.

    Raises:
        InputError: CUDA_VISIBLE_DEVICES names no such card.
    """
    if device is None or not device.startswith("cuda:"):
        return None
    number, visible = device.partition(":")[2], os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return number
    cards = [each.strip() for each in visible.split(",") if each.strip()]
    if int(number) >= len(cards):
        raise InputError(
            f"There is no card {number}: CUDA_VISIBLE_DEVICES is {visible!r}, {len(cards)} cards, which are counted from 0."
        )
    return cards[int(number)]


def device_of_order(device: str | None) -> str | None:
    """What a run on this worker is told: the one card a process sees is its first."""
    return "cuda" if device is not None and device.startswith("cuda:") else device
