"""How a service holds under many clients: `python -m benchmarks service-load`.

Starts `scail2 serve` on loopback with the embedded model and one worker, then lets clients submit, watch, look and cancel at
random (seeded). Gives latencies of `GET` while the worker renders, answers by status, what every client got done, and the
server's memory at a quarter of the time and at its end.
"""

import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx

from benchmarks.results import Figure


class Load:
    """Clients against one address."""

    def __init__(self, address: str, end: float) -> None:
        self.address, self.end = address, end
        self.latencies: list[float] = []
        self.statuses: dict[int, int] = {}
        self.done: dict[int, int] = {}
        self._lock = threading.Lock()

    def client(self, number: int, settings: dict[str, object]) -> None:
        """One client until the time is over: submits, watches a little, cancels half of what it began."""
        chance = random.Random(number)
        with httpx.Client(base_url=self.address, timeout=30) as http:
            while time.monotonic() < self.end:
                answer = http.post("/v1/runs", json={"settings": settings | {"seed": chance.randrange(10**6)}})
                self._count(number, answer.status_code)
                if answer.status_code != 201:
                    self._look(http, "/v1/runs?limit=5", number)
                    time.sleep(chance.uniform(0.2, 1.0))
                    continue
                run = answer.json()["id"]
                for _ in range(chance.randrange(2, 8)):
                    self._look(http, f"/v1/runs/{run}", number)
                    time.sleep(chance.uniform(0.1, 0.6))
                if chance.random() < 0.8:
                    self._count(number, http.post(f"/v1/runs/{run}/cancel").status_code)

    def _look(self, http: httpx.Client, where: str, number: int) -> None:
        started = time.perf_counter()
        status = http.get(where).status_code
        with self._lock:
            self.latencies.append(time.perf_counter() - started)
        self._count(number, status)

    def _count(self, number: int, status: int) -> None:
        with self._lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self.done[number] = self.done.get(number, 0) + 1


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def figures(clients: int = 50, seconds: float = 120) -> Iterator[Figure]:
    """For the runner."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "scail2", "serve", "--runs", runs, "--port", "0"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            address = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.]+:\d+", line)))
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield from run_load(address, server.pid, clients, seconds)
        finally:
            server.terminate()
            server.wait(30)


def run_load(address: str, pid: int, clients: int, seconds: float) -> Iterator[Figure]:
    """The figures of so many clients over so many seconds."""
    settings: dict[str, object] = {"mode": "animation", "frames": 17}
    with resources.as_file(resources.files("scail2") / "assets/example/animation") as folder:
        for field, name in (("reference", "reference.png"), ("driving", "driving.mp4")):
            answer = httpx.post(f"{address}/v1/uploads", content=(folder / name).read_bytes(), timeout=60)
            settings[field] = answer.json()["id"]
    load = Load(address, time.monotonic() + seconds)
    threads = [threading.Thread(target=load.client, args=(number, settings)) for number in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 4)
    early = resident_mib(pid)
    for thread in threads:
        thread.join()
    jobs = httpx.get(f"{address}/metrics", timeout=30).text
    cut = statistics.quantiles(load.latencies, n=100)
    yield Figure(name="clients", value=clients, unit="clients")
    yield Figure(name="GETs", value=len(load.latencies), unit=f"in {seconds:g} s")
    for name, value in (("median", cut[49]), ("99th of 100", cut[98]), ("slowest", max(load.latencies))):
        yield Figure(name=f"GET, {name}", value=1e3 * value, unit="ms")
    for status, count in sorted(load.statuses.items()):
        yield Figure(name=f"answers {status}", value=count, unit="answers")
    yield Figure(name="calls of the least served client", value=min(load.done.values()), unit="calls")
    yield Figure(name="calls of the most served client", value=max(load.done.values()), unit="calls")
    yield Figure(name="server at a quarter of the time", value=early, unit="MiB")
    yield Figure(name="server at the end", value=resident_mib(pid), unit="MiB")
    for state, count in re.findall(r'scail2_jobs{state="(\w+)"} (\d+)', jobs):
        yield Figure(name=f"jobs {state}", value=int(count), unit="jobs")
