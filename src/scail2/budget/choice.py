"""Which placement a machine has room for: the fastest that fits, the runners-up, or what would have to change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from scail2.budget.machines import ATTENTION_SPEED, GIB, Machine
from scail2.budget.requirements import Requirement, Workload, requirement
from scail2.budget.shapes import ModelShape
from scail2.errors import InputError
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.request.speed import StepCache

# Chunks of tokens that are tried; they change no value, and below the smallest nothing is left to be gained.
_CHUNKS = (None, 8192)
_RUNNERS_UP = 2
_SIZES = ((704, 1280), (640, 1152), (512, 896), (448, 832), (384, 672), (320, 576), (256, 448))


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A workload's needs on a machine: the placement that was chosen (None: nothing fits) and the next best."""

    workload: Workload
    machine: Machine
    chosen: Requirement | None
    others: tuple[Requirement, ...]
    smallest: Requirement
    advice: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For plan.json and `scail2 plan --json`."""
        return {
            "machine": self.machine.name,
            "memory_gib": round(self.machine.memory / GIB, 2),
            "is_cpu": self.machine.is_cpu,
            "rates": "measured" if self.machine.rates.measured else "stated",
            "within": self.machine.within,
            "fits": self.chosen is not None,
            "needs": (self.chosen or self.smallest).to_json(),
            "runners_up": [each.to_json() for each in self.others],
            "advice": list(self.advice),
            "remarks": list(self.remarks),
        }

    def refuse(self) -> None:
        """Raises InputError where nothing fits, naming what would.

        A CPU refuses no weights: they are mapped from their file, and what main memory does not hold is read again.
        """
        if self.chosen is not None or (self.machine.is_cpu and self.smallest.working_bytes <= self.machine.memory):
            return
        needed = self.smallest.working_bytes if self.machine.is_cpu else self.smallest.peak
        need, have = needed / GIB, self.machine.memory / GIB
        told = f"This job does not fit {self.machine.name}: it needs {need:.1f} GB of its {have:.1f} GB"
        if self.machine.is_cpu:
            told += " of main memory"
        elif self.machine.main_memory is not None and self.smallest.main_bytes > self.machine.main_memory:
            main = self.machine.main_memory / GIB
            told += f" and {self.smallest.main_bytes / GIB:.1f} GB of {main:.1f} GB main memory"
        advice = f" What would fit: {'; '.join(self.advice)}." if self.advice else ""
        raise InputError(f"{told}, even as {self.smallest.placement}.{advice}")


def plan_budget(
    model: ModelShape,
    workload: Workload,
    machine: Machine,
    asked: Placement,
    correct: Callable[[Requirement], Requirement] = lambda needs: needs,
) -> Budget:
    """The budget of a workload.

    Args:
        asked: what the user wants; its ``kind`` may be ``auto``, and only what it leaves open is chosen.
        correct: what finished runs have taught (`scail2.budget.calibration.corrected`).
    """
    tried = [
        correct(requirement(model, workload, each, machine)) for each in candidates(model, workload, machine, asked)
    ]
    fitting = sorted((each for each in tried if fits(each, machine)), key=lambda each: each.total_seconds)
    smallest = min(tried, key=lambda each: (each.peak > machine.memory, each.main_bytes, each.peak))
    if not any(each.peak <= machine.memory for each in tried):
        smallest = min(tried, key=lambda each: each.peak)
    return Budget(
        workload=workload,
        machine=machine,
        smallest=smallest,
        remarks=_remarks(workload),
        chosen=fitting[0] if fitting else None,
        others=_distinct(fitting) if fitting else (),
        advice=() if fitting else tuple(_advice(model, workload, machine, asked)),
    )


def _remarks(workload: Workload) -> tuple[str, ...]:
    """What of the time is not known, or by others' word only."""
    told = []
    if (speed := ATTENTION_SPEED[workload.attention]) != 1:
        told.append(
            f"attention {workload.attention} is reckoned {speed:g} times as fast as PyTorch's, as its authors state"
        )
    if workload.compiled:
        told.append("the minute or more that compiling takes, and what it saves, are not in the time")
    if workload.cache not in (StepCache.OFF, StepCache.TAYLORSEER):
        told.append(
            f"the time is that of the exact run: how much of it --cache {workload.cache} skips is not known before"
        )
    return tuple(told)


def fits(needs: Requirement, machine: Machine) -> bool:
    """Whether a machine has what a placement needs, as far as it is known."""
    if machine.is_cpu:
        return needs.main_bytes <= machine.memory
    main = machine.main_memory is None or needs.main_bytes <= machine.main_memory
    return needs.peak <= machine.memory and main


def candidates(model: ModelShape, workload: Workload, machine: Machine, asked: Placement) -> Iterator[Placement]:
    """Every placement that leaves values as they are and that ``asked`` allows, the plainest first."""
    kinds = [asked.kind] if asked.kind is not PlacementKind.AUTO else [each for each in PlacementKind if each != "auto"]
    if machine.is_cpu and asked.kind is PlacementKind.AUTO:
        kinds = [PlacementKind.ENCODERS_FIRST]
    if workload.compiled and asked.kind is PlacementKind.AUTO:  # compiled blocks must stay where they are
        kinds = [each for each in kinds if not replace(asked, kind=each).offloads]
    for kind, storage in itertools.product(kinds, _forms(model, workload, asked.storage)):
        for chunk in _CHUNKS if asked.token_chunk is None and not machine.is_cpu else (asked.token_chunk,):
            for tiled in (False, True) if not asked.vae_tiled and _can_tile(model, machine) else (asked.vae_tiled,):
                yield replace(asked, kind=kind, storage=storage, token_chunk=chunk, vae_tiled=tiled)


def _forms(model: ModelShape, workload: Workload, asked: WeightStorage) -> tuple[WeightStorage, ...]:
    """Forms of the weights that may be chosen: as stored where that is another, unless LoRAs are to be fused into them."""
    if asked is not WeightStorage.AUTO:
        return (asked,)
    may_stay = model.transformer.weights.can_stay and not workload.lora_bytes
    return (WeightStorage.FULL, WeightStorage.STORED) if may_stay else (WeightStorage.FULL,)


def _can_tile(model: ModelShape, machine: Machine) -> bool:
    return model.autoencoder.base_dim is not None and not machine.is_cpu


def _distinct(fitting: list[Requirement]) -> tuple[Requirement, ...]:
    """The best of every other kind of placement and form of the weights."""
    best = fitting[0].placement
    found: dict[tuple[PlacementKind, WeightStorage], Requirement] = {}
    for each in fitting:
        if (each.placement.kind, each.placement.storage) != (best.kind, best.storage):
            found.setdefault((each.placement.kind, each.placement.storage), each)
    return tuple(found.values())[:_RUNNERS_UP]


def _advice(model: ModelShape, workload: Workload, machine: Machine, asked: Placement) -> Iterator[str]:
    """The nearest settings that fit: weights in fewer bytes, a smaller picture, shorter segments."""

    def needs(changed: Workload, wanted: Placement) -> Requirement | None:
        tried = (requirement(model, changed, each, machine) for each in candidates(model, changed, machine, wanted))
        return min((each for each in tried if fits(each, machine)), key=lambda each: each.total_seconds, default=None)

    free = replace(asked, kind=PlacementKind.AUTO)
    if workload.compiled and needs(replace(workload, compiled=False), free) is not None:
        yield "--no-compile"
    exact = replace(workload, cache=StepCache.OFF)
    if workload.cache is not StepCache.OFF and needs(exact, free) is not None:
        yield "--cache off"
    if asked.kind is not PlacementKind.AUTO and needs(workload, free) is not None:
        yield "--placement auto"
    unforced = replace(free, storage=WeightStorage.AUTO)
    if asked.storage is WeightStorage.FULL and needs(workload, unforced) is not None and needs(workload, free) is None:
        yield "--weights auto"
    for storage in (WeightStorage.FP8, WeightStorage.NF4):
        if (
            asked.storage in (WeightStorage.AUTO, WeightStorage.FULL)
            and needs(workload, replace(free, storage=storage)) is not None
        ):
            yield f"--weights {storage}"
            break
    for height, width in _SIZES:
        # The shape of the picture is the video's; the number of pixels is what counts.
        smaller = height * width < 0.97 * workload.size[0] * workload.size[1]
        scaled = _scaled(workload.size, height * width)
        if smaller and needs(replace(workload, size=scaled), free) is not None:
            yield f"--height {scaled[0]} --width {scaled[1]}"
            break
    for frames in range(max(workload.segments) - 4, max(12, workload.overlap), -4):
        if needs(replace(workload, segments=(frames,)), free) is not None:
            yield f"--segment-frames {frames}"
            break


def _scaled(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """A size in steps of 32 with about so many pixels, in the same shape."""
    factor = (pixels / (size[0] * size[1])) ** 0.5
    height, width = (max(32, round(side * factor / 32) * 32) for side in size)
    return height, width
