"""What was measured, where and with what: one JSON file a machine, written anew after every scenario."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from scail2.files.storage import write_json

FOLDER = Path(__file__).parent / "results"
LIBRARIES = ("scail2", "torch", "diffusers", "transformers", "av", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number: what it is, and in which unit (CPU seconds are user and system time of one thread)."""

    name: str
    value: float
    unit: str


def machine() -> dict[str, Any]:
    """Processor, cores, main memory in GiB, and the card with its memory, None where there is none."""
    import torch

    info = Path("/proc/cpuinfo")
    told = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": told[1].strip() if told else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "card": f"{cards[0].name}, {cards[0].total_memory / 2**30:.0f} GiB" if cards else None,
        "bf16_natively": bool(
            torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16")
        ),
    }


def commit() -> str:
    """The commit that was measured, with a plus where files differ from it; empty outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if found.returncode:
        return ""
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", ":/src", ":/benchmarks/*.py"], capture_output=True, text=True
    )
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


class Results:
    """The file of one machine. Scenarios that were measured before stay until they are measured again.

    Args:
        path: of the file; None: named after the machine, in ``benchmarks/results``.
        shared: whether other programs worked on the machine meanwhile.
    """

    def __init__(self, path: Path | None, *, shared: bool):
        self.machine = machine()
        slug = re.sub(r"[^a-z0-9]+", "-", (self.machine["card"] or self.machine["processor"]).lower()).strip("-")
        self.path = path or FOLDER / f"{slug}.json"
        self.shared = shared
        self.scenarios: dict[str, Any] = {}
        if self.path.exists():
            self.scenarios = json.loads(self.path.read_text())["scenarios"]

    def add(self, name: str, figures: Iterable[Figure], error: str | None = None) -> None:
        """Notes a scenario's figures (those it came to, where it failed) and writes the file."""
        self.scenarios[name] = {
            "command": f"python -m benchmarks {name}",
            "commit": commit(),
            "versions": {each: metadata.version(each) for each in LIBRARIES} | {"python": platform.python_version()},
            "shared_machine": self.shared,
            "figures": [asdict(figure) for figure in figures],
            "error": error,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"machine": self.machine, "scenarios": self.scenarios})


def child(command: list[str], *, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a module of this interpreter with one thread; raises `subprocess.CalledProcessError` with its last words."""
    root = Path(__file__).parents[1]
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, [known, str(root)]))}
    return subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, env=environment, timeout=timeout
    )
