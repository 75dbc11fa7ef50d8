"""Machines to plan for: the one this runs on, a card by name, or a number of gigabytes; what they hold and how fast they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from scail2.errors import InputError, short
from scail2.files.storage import free_bytes
from scail2.request.speed import AttentionKernel

GIB = 1 << 30
# Where Linux tells a container what it may use.
_CONTAINER = Path("/sys/fs/cgroup")
# What a driver, its context and its kernels take of a card, and the share of activations that an allocator wastes.
RESERVED, WASTED = 0.7 * GIB, 0.05
# Shares of the stated peak that are reached: A100 61 % over a whole pass of the 14B, H100 and H200 78-81 % in one product.
_REACHED = {"matmul": 0.62, "attention": 0.60, "convolution": 0.35, "bandwidth": 0.85}
# Predictions are within so much of what was measured: with rates measured on the machine, and from stated ones.
_MEASURED_WITHIN, _STATED_WITHIN = 0.2, 0.4
_UNKNOWN_CORE = 4e10  # float32 FLOP a second of one core with 256-bit vectors


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card.

    Attributes:
        memory: GiB.
        bf16: TFLOP/s of dense bfloat16 products added up in float32, as the vendor states them.
        fp8: the same in float8; None where there is no such hardware.
        bandwidth: GB/s of its memory; ``link``: GB/s from page-locked main memory.
        source: where the numbers come from.
    """

    name: str
    memory: float
    bf16: float
    fp8: float | None
    bandwidth: float
    link: float
    source: str


_AMPERE, _ADA = "NVIDIA GA102 whitepaper", "NVIDIA Ada whitepaper"
_COMPUTED = "two operations a tensor core for each of its float32 rate, as on its siblings; not measured"
CARDS = (
    Card("RTX 4060", 8, 30, 60, 272, 12, _COMPUTED),
    Card("RTX 3060 12 GB", 12, 25.5, None, 360, 24, _COMPUTED),
    Card("RTX 4070", 12, 58, 117, 504, 24, _ADA),
    Card("RTX 4060 Ti 16 GB", 16, 44, 88, 288, 12, _COMPUTED),
    Card("RTX 4080", 16, 97, 195, 717, 24, _ADA),
    Card("RTX 3090", 24, 71, None, 936, 24, _AMPERE),
    Card("RTX 4090", 24, 165, 330, 1008, 24, _ADA),
    Card("RTX 5090", 32, 209, 419, 1792, 50, "NVIDIA RTX Blackwell whitepaper; not checked here"),
    Card("A100 40 GB", 39.5, 312, None, 1555, 24, "NVIDIA A100 data sheet"),
    Card("L40S", 45, 362, 733, 864, 24, "NVIDIA L40S data sheet"),
    Card("A100 80 GB", 79.3, 312, None, 2039, 24, "NVIDIA A100 data sheet; a pass of the 14B was measured at 61 %"),
    Card("H100 80 GB", 79.1, 989, 1979, 3350, 50, "NVIDIA H100 data sheet; 798 TFLOP/s measured on 8192x8192 products"),
    Card("RTX PRO 6000 96 GB", 95, 392, 784, 1792, 50, "from the 243 TFLOP/s that were reported to be reached"),
    Card("H200 141 GB", 139.8, 989, 1979, 4800, 50, "NVIDIA H200 data sheet; 769-798 TFLOP/s measured"),
)


# How much faster than PyTorch's own kernel others attend, by the lower of what their authors state; nobody measured it here.
ATTENTION_SPEED = {
    AttentionKernel.AUTO: 1.0,
    AttentionKernel.SDPA: 1.0,
    AttentionKernel.FLASH: 1.0,
    AttentionKernel.CUDNN: 1.1,
    AttentionKernel.FLASH3: 1.5,
    AttentionKernel.SAGE: 2.0,
}

# B/s of reading a file, where nothing is known of the disk.
DISK = 1.5e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Operations and bytes a second that are really reached.

    Attributes:
        matmul, attention, convolution: FLOP/s in the type that is computed in; ``single``: convolutions in float32.
        bandwidth: B/s of the device's memory; ``link``: from main memory to it; ``disk``: of reading files.
        refiner: FLOP/s of the small models' decoder; None: that of convolutions.
        pixels: a second, of the driving video and its masks on their way into latents.
        host_pixels, host_frames: a second, of what is read, saved, measured for drift and written as a film.
        measured: whether they were measured on this machine; else they are reckoned from what is stated of it.
    """

    matmul: float
    attention: float
    convolution: float
    single: float
    bandwidth: float
    link: float
    disk: float = DISK
    refiner: float | None = None
    pixels: float = 2e7
    host_pixels: float = 2.5e6
    host_frames: float = 80
    measured: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a job may use.

    Attributes:
        name: of the device that computes.
        memory: bytes of it; of a CPU, those of main memory.
        main_memory: bytes; None where it is not known.
        disk: free bytes where the run is kept; None where it is not known.
        is_cpu: whether the device is the CPU.
    """

    name: str
    memory: float
    rates: Rates
    main_memory: float | None = None
    disk: float | None = None
    is_cpu: bool = False

    @property
    def within(self) -> float | None:
        """Share by which times may be off; None of a CPU that was not measured: nobody states what it reaches."""
        if self.rates.measured:
            return _MEASURED_WITHIN
        return None if self.is_cpu else _STATED_WITHIN


def told_within(within: float | None) -> str:
    """How far a time may be off, as what follows it."""
    return ", a guess until `scail2 calibrate` has measured this CPU" if within is None else f" ± {within:.0%}"


def card_rates(card: Card) -> Rates:
    """What a card reaches of what is stated of it."""
    peak = card.bf16 * 1e12
    return Rates(
        matmul=_REACHED["matmul"] * peak,
        attention=_REACHED["attention"] * peak,
        convolution=_REACHED["convolution"] * peak,
        single=_REACHED["convolution"] * peak / 4,
        bandwidth=_REACHED["bandwidth"] * card.bandwidth * 1e9,
        link=card.link * 1e9,
    )


def find_card(name: str) -> Card:
    """The card of that name, by its words in any order or spelling (``4090``, ``rtx4090``). InputError for none or several."""
    words = re.findall(r"[a-z]+|\d+", name.lower())
    found = [card for card in CARDS if set(words) <= set(re.findall(r"[a-z]+|\d+", card.name.lower()))]
    exact = [card for card in found if card.name.lower() == name.lower()]
    if not words or len(exact or found) != 1:
        told = "There is no card called" if not found else "Several cards are called"
        raise InputError(f"{told} {short(name)}: choose one of {', '.join(card.name for card in found or CARDS)}.")
    return (exact or found)[0]


def named_machine(card: str | None, memory: float | None, main_memory: float | None = None) -> Machine:
    """A machine to plan for: a card by name, or as many GiB (then as fast as the slowest card that has them), or both."""
    if card is not None:
        chosen = find_card(card)
    else:
        assert memory is not None
        chosen = min(CARDS, key=lambda each: (each.memory < memory, abs(each.memory - memory), each.bf16))
        chosen = replace(chosen, name=f"a card of {memory:g} GB (as fast as the {chosen.name})")
    size = (chosen.memory if memory is None else memory) * GIB
    main = None if main_memory is None else main_memory * GIB
    return Machine(name=chosen.name, memory=size, rates=card_rates(chosen), main_memory=main)


def this_machine(device: str, folder: Path) -> Machine:
    """The machine this runs on and its ``device`` ("cpu", "cuda", "cuda:1", …); runs are kept in ``folder``."""
    main, disk = float(main_memory()[0]), float(free_bytes(folder))
    kind, _, number = device.partition(":")
    if kind != "cpu" and (found := _accelerator(kind, int(number or 0))) is not None:
        name, memory = found
        return Machine(
            name=name,
            memory=memory,
            rates=card_rates(_like(name, memory / GIB)),
            main_memory=main,
            disk=disk,
        )
    if kind != "cpu":
        nearest = _like("", 16)
        return Machine(name=kind, memory=main, rates=card_rates(nearest), main_memory=main, disk=disk)
    return Machine(
        name=f"this CPU with {_threads()} thread{'s' if _threads() > 1 else ''}",
        memory=main,
        rates=cpu_rates(),
        main_memory=main,
        disk=disk,
        is_cpu=True,
    )


def main_memory() -> tuple[int, int]:
    """Bytes of main memory, and how many are free: of the machine, or of the container's limit if that is less."""
    import psutil

    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    try:
        limit = int((_CONTAINER / "memory.max").read_text())
        used = int((_CONTAINER / "memory.current").read_text())
    except (OSError, ValueError):  # no such limit: the file is absent, or says "max"
        return total, available
    return min(total, limit), min(available, max(limit - used, 0))


def cpu_rates() -> Rates:
    """What an unmeasured CPU may reach; `scail2 calibrate` measures it."""
    peak = _UNKNOWN_CORE * _threads()
    return Rates(matmul=peak, attention=peak / 2, convolution=peak / 2, single=peak / 2, bandwidth=5e9, link=5e9)


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else (os.cpu_count() or 1)


def _accelerator(kind: str, number: int) -> tuple[str, float] | None:
    """Name and bytes of a card; None where its memory is the machine's (Metal).

    Where all cards are alike, none is mistaken for another and torch is not needed. Else torch counts them: in its own
    order, and among those that CUDA_VISIBLE_DEVICES leaves.
    """
    cards = _nvidia() if kind == "cuda" else []
    if cards and len(set(cards)) == 1:
        return cards[0]
    import torch

    module = getattr(torch, kind, None)
    if module is None or not hasattr(module, "get_device_properties"):
        return None
    facts = module.get_device_properties(number)
    return facts.name, float(facts.total_memory)


def _nvidia() -> list[tuple[str, float]]:
    """Name and bytes of every NVIDIA card, as its driver's own tool tells them; none where it does not."""
    if shutil.which("nvidia-smi") is None:
        return []
    question = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
        cards = [line.rsplit(",", 1) for line in answer]
        return [(name.strip(), float(memory) * 2**20) for name, memory in cards]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _like(name: str, memory: float) -> Card:
    """The card of the table with that name in it, else the one that is next in memory."""
    known = [card for card in CARDS if all(word in name.lower() for word in card.name.lower().split()[:2])]
    return min(known or CARDS, key=lambda card: abs(card.memory - memory))
