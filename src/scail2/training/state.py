"""Checkpoints of a running training: complete or absent, and enough to go on bit for bit."""

import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.files.staging import Staging, set_aside
from scail2.training.ema import WeightAverage
from scail2.training.optimizers import OptimizerSet

_WEIGHTS, _AVERAGE, _OPTIMIZER = "weights.safetensors", "average.safetensors", "optimizer.pt"
_NAME = re.compile(r"step-[0-9]{8,}")
_ADVICE = "; resume with the recipe and model that wrote it, or choose another output folder."


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How far a training was: steps, samples seen, and steps that changed nothing."""

    step: int
    samples: int
    skipped: int = 0


def save_state(
    directory: Path, counts: Counts, model: nn.Module, optimizers: OptimizerSet, average: WeightAverage | None
) -> Path:
    """Writes ``directory/step-NNNNNNNN`` beside its final name, then renames it.

    Every random draw of a step is seeded by the step's number, so no generator state needs saving.
    """
    final = directory / f"step-{counts.step:08d}"
    trained = {n: p.detach().contiguous().cpu() for n, p in model.named_parameters() if p.requires_grad}
    counters = asdict(counts) | {"average_updates": average.updates if average else 0}
    with Staging(final) as staging:
        partial = staging.place
        partial.mkdir()
        save_file(trained, partial / _WEIGHTS)
        torch.save({"optimizers": optimizers.state_dict(), **counters}, partial / _OPTIMIZER)
        if average is not None:
            save_file({n: v.contiguous().cpu() for n, v in average.average.items()}, partial / _AVERAGE)
        # An older one is deleted only once its successor stands: a kill in between leaves a whole one.
        replaced = set_aside(final) if final.exists() else None
        staging.publish()
    if replaced is not None:
        _remove(replaced)
        with suppress(OSError):
            replaced.parent.rmdir()
    return final


def load_state(path: Path, model: nn.Module, optimizers: OptimizerSet | None, average: WeightAverage | None) -> Counts:
    """Restores a checkpoint into the given objects; returns how far it was.

    Raises:
        InputError: it is damaged, or was written by a recipe with other parameters, another optimiser, or without an average.
    """
    if average is not None and not (path / _AVERAGE).exists():
        raise InputError(f"The checkpoint {path} has no averaged weights, but this recipe keeps an average{_ADVICE}")
    saved = read_progress(path)
    _copy_parameters(_tensors(path / _WEIGHTS), model, path)
    if optimizers is not None:
        try:
            optimizers.load_state_dict(saved.optimizers)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise InputError(f"The optimiser in {path} does not fit this recipe: {error}{_ADVICE}") from None
    if average is not None:
        device = next(model.parameters()).device
        kept = _tensors(path / _AVERAGE)
        _check(kept, average.average, path)
        average.average = {n: v.to(device) for n, v in kept.items()}
        average.updates = saved.average_updates
    return Counts(step=saved.step, samples=saved.samples, skipped=saved.skipped)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress(Counts):
    """What a checkpoint says besides weights: counts, optimiser states as torch keeps them, updates of the average."""

    optimizers: Any
    average_updates: int


def read_progress(path: Path) -> Progress:
    """What a checkpoint says besides weights. Raises `InputError` for a damaged file and for anything but counts."""
    try:
        saved = torch.load(path / _OPTIMIZER, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _damaged(path / _OPTIMIZER, told) from None
    names = ("step", "samples", "average_updates", "skipped")
    if isinstance(saved, dict):
        saved.setdefault("skipped", 0)  # checkpoints of earlier versions skipped nothing
    if not isinstance(saved, dict) or saved.keys() != {"optimizers", *names}:
        raise _damaged(path / _OPTIMIZER, "it does not hold what a checkpoint holds")
    for name in names:
        if type(saved[name]) is not int or not 0 <= saved[name] < 2**53:
            raise _damaged(path / _OPTIMIZER, f"its {name} is no count")
    return Progress(**saved)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _damaged(file, str(error)) from None


def _damaged(file: Path, why: str) -> InputError:
    return InputError(
        f"{file} is damaged ({why}); delete the folder {file.parent} to go on from the checkpoint before it."
    )


def load_weights(path: Path, model: nn.Module) -> None:
    """Copies a checkpoint's averaged weights (the plain ones where no average was kept) into a transformer."""
    average = path / _AVERAGE
    if average.exists():
        values = _tensors(average)
    else:
        prefix = "transformer."
        plain = _tensors(path / _WEIGHTS)
        values = {n.removeprefix(prefix): v for n, v in plain.items() if n.startswith(prefix)}
    _copy_parameters(values, model, path)


def latest_state(directory: Path) -> Path | None:
    """The newest complete checkpoint in ``directory``, or None."""
    found = _states(directory)
    return found[-1] if found else None


def state_step(checkpoint: Path) -> int:
    """The step a checkpoint was written after."""
    return int(checkpoint.name.removeprefix("step-"))


def prune_states(directory: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints; what else lies in their folders stays."""
    for old in _states(directory)[:-keep]:
        _remove(old)


def _states(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first. Other names, and links, are not ours: nobody trains on from them by chance."""
    found = (path for path in directory.glob("step-*") if _NAME.fullmatch(path.name) and not path.is_symlink())
    return sorted(path for path in found if all((path / name).is_file() for name in (_WEIGHTS, _OPTIMIZER)))


def _remove(state: Path) -> None:
    """Deletes a checkpoint's own files, and its folder unless somebody keeps something there."""
    # Without the optimiser it is no checkpoint any more: a deletion that is interrupted leaves no half one.
    for name in (_OPTIMIZER, _WEIGHTS, _AVERAGE):
        (state / name).unlink(missing_ok=True)
    with suppress(OSError):
        state.rmdir()


@without_gradients
def _copy_parameters(values: dict[str, torch.Tensor], model: nn.Module, path: Path) -> None:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    _check(values, parameters, path)
    for name, value in values.items():
        parameters[name].copy_(value)


def _check(values: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raises `InputError` where names or shapes of a checkpoint's tensors are not those of the parameters they are for."""
    if values.keys() != parameters.keys():
        differing = sorted(values.keys() ^ parameters.keys())
        raise InputError(
            f"The checkpoint {path} does not fit this recipe: {len(differing)} parameters differ, "
            f"first {differing[0]}{_ADVICE}"
        )
    for name, value in values.items():
        if value.shape != parameters[name].shape:
            sizes = f"{tuple(value.shape)} there and {tuple(parameters[name].shape)} here"
            raise InputError(f"The checkpoint {path} does not fit this model: {name} is {sizes}{_ADVICE}")
