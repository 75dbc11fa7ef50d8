"""What was measured on this machine, kept beside the models: rates of its devices, and what finished runs have taught.

::

    MODELS/calibration.json    {device: {"rates": {number format: Rates}, "learned": {stage of a model: factor}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from scail2.budget.machines import Machine, Rates, this_machine
from scail2.budget.requirements import Requirement
from scail2.budget.shapes import ModelShape
from scail2.errors import InputError
from scail2.files.documents import Between, load_json
from scail2.files.public.installed import model_folder
from scail2.files.staging import atomic_file

FILE = "calibration.json"
# One run moves a factor by at most so much, and no factor goes beyond these bounds: a busy machine teaches nothing lasting.
_STEP, _LOWEST, _HIGHEST = 1.5, 0.2, 5.0
_SHORTEST = 0.05  # seconds; what takes less is not worth predicting

Factor = Annotated[float, Between(_LOWEST, _HIGHEST)]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of one device.

    Attributes:
        rates: by number format that is computed in.
        learned: measured over predicted seconds, by stage and width of the model.
    """

    rates: dict[str, Rates] = field(default_factory=dict)
    learned: dict[str, Factor] = field(default_factory=dict)


def calibrations() -> dict[str, Calibration]:
    """Everything that was measured, by device; nothing where the file is missing or no longer understood."""
    with suppress(InputError, OSError):
        return load_json(_file(), dict[str, Calibration])
    return {}


def keep(device: str, found: Calibration) -> Path:
    """Stores what was measured of a device, in place of what was known, and returns the file."""
    every = calibrations() | {device: found}
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps({name: asdict(each) for name, each in every.items()}, indent=2).encode() + b"\n")
    return path


def measured_rates(device: str, itemsize: int) -> Rates | None:
    """Rates of a device in a number format of so many bytes; None where they were not measured."""
    found = calibrations().get(device)
    wanted = "float32" if itemsize == 4 else "bfloat16"
    return found.rates.get(wanted) if found is not None else None


def measured_machine(device: str, folder: Path, itemsize: int) -> Machine:
    """`this_machine` with the rates that were measured on it, where they were."""
    machine = this_machine(device, folder)
    return replace(machine, rates=measured_rates(machine.name, itemsize) or machine.rates)


def corrected(needs: Requirement, device: str, model: ModelShape) -> Requirement:
    """A requirement with its seconds corrected by what runs of such a model have taught."""
    found = calibrations().get(device)
    if found is None or not found.learned:
        return needs
    seconds = {stage: value * found.learned.get(_key(stage, model), 1.0) for stage, value in needs.seconds.items()}
    return replace(needs, seconds=seconds)


def learn(device: str, model: ModelShape, predicted: Mapping[str, float], measured: Mapping[str, float]) -> None:
    """Takes a run's measured seconds into account, half of what they say and within bounds.

    ``predicted`` are `corrected` seconds of the same work. Nothing is kept of a device that nobody calibrated.
    """
    known = calibrations().get(device)
    if known is None:
        return
    learned = dict(known.learned)
    for stage, seconds in measured.items():
        expected = predicted.get(stage, 0.0)
        if min(seconds, expected) < _SHORTEST:
            continue
        ratio = min(_STEP, max(1 / _STEP, (seconds / expected) ** 0.5))
        key = _key(stage, model)
        learned[key] = min(_HIGHEST, max(_LOWEST, learned.get(key, 1.0) * ratio))
    if learned != known.learned:
        keep(device, replace(known, learned=learned))


def _key(stage: str, model: ModelShape) -> str:
    return f"{stage} {model.transformer.dim}"


def _file() -> Path:
    return model_folder() / FILE
