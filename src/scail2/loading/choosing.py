"""Which placement a model gets where not all of it was named: the fastest that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from scail2.budget.calibration import measured_machine
from scail2.budget.choice import plan_budget
from scail2.budget.requirements import Workload
from scail2.budget.shapes import ModelShape
from scail2.errors import InputError
from scail2.loading.facts import open_model
from scail2.request.placement import Placement, PlacementKind, WeightStorage

# What a pipeline is placed for where nobody says: the published size, one segment, with guidance.
USUAL_JOB = Workload(size=(512, 896), segments=(81,), overlap=5, steps=40, passes=2)


def choose_placement(
    placement: Placement | str,
    path: Path,
    device: torch.device,
    shape: ModelShape | None = None,
    *,
    lora_bytes: int = 0,
) -> Placement:
    """The placement of a pipeline whose job is not known yet.

    Args:
        placement: taken as it is, or for its kind ``auto`` chosen for `USUAL_JOB`; the name of a kind stands for the rest
            of a placement as it is by default.
        path: the model's, which is looked into where its ``shape`` is not known.
        lora_bytes: of LoRAs that will be fused into it.

    Raises:
        InputError: a name that is no kind.
    """
    asked = placement if isinstance(placement, Placement) else _named(placement)
    if asked.kind is not PlacementKind.AUTO and asked.storage is not WeightStorage.AUTO:
        return asked
    job = replace(USUAL_JOB, lora_bytes=lora_bytes)
    return fitting_placement(shape or open_model(path).shape, job, asked, device, path)


def fitting_placement(
    shape: ModelShape, job: Workload, asked: Placement, device: torch.device, folder: Path
) -> Placement:
    """The fastest placement for a job on this machine that ``asked`` allows; where none fits, the one that needs least.

    Args:
        folder: where the run is kept.
    """
    budget = plan_budget(shape, job, measured_machine(str(device), folder, job.itemsize), asked)
    return (budget.chosen or budget.smallest).placement


def _named(name: str) -> Placement:
    """``auto`` leaves the form of the weights open as well."""
    kind = _kind(name)
    return Placement(kind=kind, storage=WeightStorage.AUTO if kind is PlacementKind.AUTO else WeightStorage.FULL)


def _kind(name: str) -> PlacementKind:
    try:
        return PlacementKind(name)
    except ValueError:
        raise InputError(f"There is no placement called {name!r}: choose one of {', '.join(PlacementKind)}.") from None
