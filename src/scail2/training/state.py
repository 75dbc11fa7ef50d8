"""Checkpoints of a running training: complete or absent, and enough to go on bit for bit.

One process writes three files, several write shards (:mod:`scail2.training.distributed.files`); either is read by any number.
"""

import pickle
import re
from collections.abc import Callable, Mapping
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
from scail2.training.distributed.files import (
    PROGRESS,
    SHARDS,
    damaged,
    fill,
    is_sharded_checkpoint,
    read_sharded_progress,
    stored_sizes,
)
from scail2.training.distributed.tensors import sharded_like
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
    final = state_path(directory, counts.step)
    trained = {n: p.detach().contiguous().cpu() for n, p in model.named_parameters() if p.requires_grad}
    counters = asdict(counts) | {"average_updates": average.updates if average else 0}
    with Staging(final) as staging:
        partial = staging.place
        partial.mkdir()
        save_file(trained, partial / _WEIGHTS)
        torch.save({"optimizers": optimizers.state_dict(), **counters}, partial / _OPTIMIZER)
        if average is not None:
            save_file({n: v.contiguous().cpu() for n, v in average.average.items()}, partial / _AVERAGE)
        replace_state(staging)
    return final


def state_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}"


def replace_state(staging: Staging) -> None:
    """Publishes a whole checkpoint; an older one is deleted only once its successor stands: a kill leaves a whole one."""
    replaced = set_aside(staging.target) if staging.target.exists() else None
    staging.publish()
    if replaced is not None:
        _remove(replaced)
        with suppress(OSError):
            replaced.parent.rmdir()


def named_state(
    model: nn.Module, optimizers: OptimizerSet, average: WeightAverage | None, like: Callable[[str], bool] | None = None
) -> dict[str, torch.Tensor]:
    """Everything a checkpoint holds beside counts, by the names of sharded ones: the tensors themselves.

    Args:
        like: which optimiser states to make (zeros) where the optimiser, which is still new, has none.
    """
    tensors = {f"weights.{n}": p.detach() for n, p in model.named_parameters() if p.requires_grad}
    if average is not None:
        tensors |= {f"average.{n}": value for n, value in average.average.items()}
    for optimizer, parameters in zip(optimizers.optimizers, optimizers.named_parameters(), strict=True):
        kind, fields = _moments(optimizer)
        for name, parameter in parameters.items():
            state = optimizer.state.get(parameter, {})
            if like is not None:
                empty = {
                    field: torch.zeros_like(parameter) if whole else torch.zeros(()) for field, whole in fields.items()
                }
                state = {field: value for field, value in empty.items() if like(f"{kind}.{field}.{name}")}
            tensors |= {f"{kind}.{field}.{name}": value for field, value in state.items()}
    return tensors


def _moments(optimizer: torch.optim.Optimizer) -> tuple[str, dict[str, bool]]:
    """An optimiser's word in the names of its states, and these: whether they are as large as the parameter."""
    if isinstance(optimizer, torch.optim.Muon):
        return "muon", {"momentum_buffer": True}
    return "adamw", {"step": False, "exp_avg": True, "exp_avg_sq": True}


def load_state(path: Path, model: nn.Module, optimizers: OptimizerSet | None, average: WeightAverage | None) -> Counts:
    """Restores a checkpoint into the given objects; returns how far it was.

    Raises:
        InputError: it is damaged, or was written by a recipe with other parameters, another optimiser, or without an average.
    """
    if is_sharded_checkpoint(path):
        return _load_shards(path, model, optimizers, average)
    if average is not None and not (path / _AVERAGE).exists():
        raise _no_average(path)
    saved = read_progress(path)
    _copy_parameters(_tensors(path / _WEIGHTS), model, path)
    if optimizers is not None:
        try:
            optimizers.load_state_dict(_held_alike(saved.optimizers, optimizers))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise InputError(f"The optimiser in {path} does not fit this recipe: {error}{_ADVICE}") from None
    if average is not None:
        device = next(model.parameters()).device
        kept = _tensors(path / _AVERAGE)
        _check(kept, average.average, path)
        average.average = {n: sharded_like(v.to(device), average.average[n]) for n, v in kept.items()}
        average.updates = saved.average_updates
    return Counts(step=saved.step, samples=saved.samples, skipped=saved.skipped)


def _held_alike(states: Any, optimizers: OptimizerSet) -> Any:
    """Whole states of optimisers as parts where the parameters are parts."""
    found = []
    for state, parameters in zip(states, optimizers.named_parameters(), strict=False):
        held = {
            number: {
                field: sharded_like(value, parameter) if value.shape == parameter.shape else value
                for field, value in state["state"][number].items()
            }
            for number, parameter in enumerate(parameters.values())
            if number in state["state"]
        }
        found.append(state | {"state": held})
    return found if len(found) == len(states) else states


def _load_shards(
    path: Path, model: nn.Module, optimizers: OptimizerSet | None, average: WeightAverage | None
) -> Counts:
    """`load_state` of a sharded checkpoint: every process reads what it holds, one alone everything."""
    progress, stored = read_sharded_progress(path), stored_sizes(path)
    if average is not None and not any(name.startswith("average.") for name in stored):
        raise _no_average(path)
    if optimizers is None:
        wanted = {f"weights.{n}": p.detach() for n, p in model.named_parameters() if p.requires_grad}
    else:
        wanted = named_state(model, optimizers, average, stored.__contains__)
        kinds = {name.split(".")[0] for name in stored} - {"weights", "average"}
        ours = {_moments(optimizer)[0] for optimizer in optimizers.optimizers}
        if kinds != ours and kinds:
            told = f"it is {' and '.join(sorted(kinds))}, this recipe's {' and '.join(sorted(ours))}"
            raise InputError(f"The optimiser in {path} does not fit this recipe: {told}{_ADVICE}")
    _check_stored(stored, wanted, path, tuple({f"{name.split('.')[0]}." for name in wanted}))
    fill(path, wanted)
    if optimizers is not None:
        _give_states(optimizers, wanted)
    if average is not None:
        average.updates = progress.average_updates
    return Counts(step=progress.step, samples=progress.samples, skipped=progress.skipped)


def _give_states(optimizers: OptimizerSet, tensors: Mapping[str, torch.Tensor]) -> None:
    for optimizer, parameters in zip(optimizers.optimizers, optimizers.named_parameters(), strict=True):
        kind, fields = _moments(optimizer)
        for name, parameter in parameters.items():
            found = {field: tensors[key] for field in fields if (key := f"{kind}.{field}.{name}") in tensors}
            if found:
                optimizer.state[parameter] = found


def _no_average(path: Path) -> InputError:
    return InputError(f"The checkpoint {path} has no averaged weights, but this recipe keeps an average{_ADVICE}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress(Counts):
    """What a checkpoint says besides weights: counts, optimiser states as torch keeps them, updates of the average."""

    optimizers: Any
    average_updates: int


def read_progress(path: Path) -> Progress:
    """What a checkpoint says besides weights. Raises `InputError` for a damaged file and for anything but counts.

    The optimiser states of a sharded checkpoint are not among it.
    """
    if is_sharded_checkpoint(path):
        told_of = read_sharded_progress(path)
        names = ("step", "samples", "skipped", "average_updates")
        return Progress(optimizers=None, **{name: getattr(told_of, name) for name in names})
    try:
        saved = torch.load(path / _OPTIMIZER, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise damaged(path / _OPTIMIZER, told) from None
    names = ("step", "samples", "average_updates", "skipped")
    if isinstance(saved, dict):
        saved.setdefault("skipped", 0)  # checkpoints of earlier versions skipped nothing
    if not isinstance(saved, dict) or saved.keys() != {"optimizers", *names}:
        raise damaged(path / _OPTIMIZER, "it does not hold what a checkpoint holds")
    for name in names:
        if type(saved[name]) is not int or not 0 <= saved[name] < 2**53:
            raise damaged(path / _OPTIMIZER, f"its {name} is no count")
    return Progress(**saved)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise damaged(file, str(error)) from None


def load_weights(path: Path, model: nn.Module) -> None:
    """Copies a checkpoint's averaged weights (the plain ones where no average was kept) into a transformer."""
    average = path / _AVERAGE
    if is_sharded_checkpoint(path):
        _load_sharded_weights(path, model)
        return
    if average.exists():
        values = _tensors(average)
    else:
        prefix = "transformer."
        plain = _tensors(path / _WEIGHTS)
        values = {n.removeprefix(prefix): v for n, v in plain.items() if n.startswith(prefix)}
    _copy_parameters(values, model, path)


def _load_sharded_weights(path: Path, model: nn.Module) -> None:
    """Averaged, else plain weights into a transformer."""
    stored = stored_sizes(path)
    prefix = "average." if any(name.startswith("average.") for name in stored) else "weights.transformer."
    wanted = {f"{prefix}{n}": p.detach() for n, p in model.named_parameters() if p.requires_grad}
    _check_stored(stored, wanted, path, (prefix,))
    fill(path, wanted)


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
    return sorted(path for path in found if is_state(path))


def is_state(path: Path) -> bool:
    """Whether a folder is a whole checkpoint."""
    return is_sharded_checkpoint(path) or all((path / name).is_file() for name in (_WEIGHTS, _OPTIMIZER))


def _remove(state: Path) -> None:
    """Deletes a checkpoint's own files, and its folder unless somebody keeps something there."""
    # Without the optimiser or the counts it is no checkpoint any more: a deletion that is interrupted leaves no half one.
    for name in (PROGRESS, _OPTIMIZER, _WEIGHTS, _AVERAGE, *(shard.name for shard in state.glob(SHARDS))):
        (state / name).unlink(missing_ok=True)
    with suppress(OSError):
        state.rmdir()


@without_gradients
def _copy_parameters(values: dict[str, torch.Tensor], model: nn.Module, path: Path) -> None:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    _check(values, parameters, path)
    for name, value in values.items():
        parameters[name].copy_(sharded_like(value, parameters[name]))


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


def _check_stored(
    stored: Mapping[str, torch.Size], wanted: Mapping[str, torch.Tensor], path: Path, compared: tuple[str, ...]
) -> None:
    """`_check` by sizes alone, of names that begin so."""
    _check({n: torch.empty(size, device="meta") for n, size in stored.items() if n.startswith(compared)}, wanted, path)
