"""Checkpoints of a running training: complete or absent, and enough to go on bit for bit."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from scail2.errors import InputError
from scail2.training.ema import WeightAverage
from scail2.training.optimizers import OptimizerSet

_ADVICE = "; resume with the recipe and model that wrote it, or choose another output folder."


def save_state(
    directory: Path, step: int, samples: int, model: nn.Module, optimizers: OptimizerSet, average: WeightAverage | None
) -> Path:
    """Writes ``directory/step-NNNNNNNN`` beside its final name, then renames it.

    Every random draw of a step is seeded by the step's number, so no generator state needs saving.
    """
    final = directory / f"step-{step:08d}"
    partial = directory / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    trained = {n: p.detach().contiguous().cpu() for n, p in model.named_parameters() if p.requires_grad}
    save_file(trained, partial / "weights.safetensors")
    counters = {"step": step, "samples": samples, "average_updates": average.updates if average else 0}
    torch.save({"optimizers": optimizers.state_dict(), **counters}, partial / "optimizer.pt")
    if average is not None:
        save_file({n: v.contiguous().cpu() for n, v in average.average.items()}, partial / "average.safetensors")
    # An older one is deleted only once its successor stands: a kill in between leaves a whole one.
    replaced = directory / f".{final.name}.replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        os.replace(final, replaced)
    os.replace(partial, final)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def load_state(
    path: Path, model: nn.Module, optimizers: OptimizerSet | None, average: WeightAverage | None
) -> tuple[int, int]:
    """Restores a checkpoint into the given objects; returns (step, samples seen).

    Raises:
        InputError: it was written by a recipe with other parameters, another optimiser, or without an average.
    """
    if average is not None and not (path / "average.safetensors").exists():
        raise InputError(f"The checkpoint {path} has no averaged weights, but this recipe keeps an average{_ADVICE}")
    saved = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    _copy_parameters(load_file(path / "weights.safetensors"), model, path)
    if optimizers is not None:
        try:
            optimizers.load_state_dict(saved["optimizers"])
        except ValueError as error:
            raise InputError(f"The optimiser in {path} does not fit this recipe: {error}{_ADVICE}") from None
    if average is not None:
        device = next(model.parameters()).device
        average.average = {n: v.to(device) for n, v in load_file(path / "average.safetensors").items()}
        average.updates = saved["average_updates"]
    return saved["step"], saved["samples"]


def load_weights(path: Path, model: nn.Module) -> None:
    """Copies a checkpoint's averaged weights (the plain ones where no average was kept) into a transformer."""
    average = path / "average.safetensors"
    if average.exists():
        values = load_file(average)
    else:
        prefix = "transformer."
        plain = load_file(path / "weights.safetensors")
        values = {n.removeprefix(prefix): v for n, v in plain.items() if n.startswith(prefix)}
    _copy_parameters(values, model, path)


def latest_state(directory: Path) -> Path | None:
    """The newest complete checkpoint in ``directory``, or None."""
    found = sorted(directory.glob("step-*"))
    return found[-1] if found else None


def state_step(checkpoint: Path) -> int:
    """The step a checkpoint was written after."""
    return int(checkpoint.name.removeprefix("step-"))


def prune_states(directory: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints."""
    for old in sorted(directory.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


@torch.no_grad()
def _copy_parameters(values: dict[str, torch.Tensor], model: nn.Module, path: Path) -> None:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
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
    for name, value in values.items():
        parameters[name].copy_(value)
