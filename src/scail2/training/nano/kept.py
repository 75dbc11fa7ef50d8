"""A training's state in a few megabytes: how far the averaged weights have moved, coarsely.

Weights move by little in a run, so their differences from the model that it began with bear a step of half their size: four
bits a number and an error of a seventh of the movement, which trains on as if it were not there. Optimisers start anew.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scail2.errors import InputError
from scail2.files.staging import atomic_file

# Steps in units of a row's root mean square movement.
_STEP = 0.5
_BASE, _LEVELS, _STEPS, _PLAIN = "base", "levels/", "steps/", "plain/"


def write_kept(file: Path, trained: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Writes the movement of ``trained`` from ``base``.

    Args:
        file: an ``.npz``.
        trained: float32 tensors by name; matrices and convolutions are kept in steps of a row, vectors in half precision.
            What ``base`` does not have, such as a critic, is left out.
        base: those that the run began with, of the same names and shapes, and others.
    """
    trained = {name: tensor for name, tensor in trained.items() if name in base}
    arrays = {}
    for name, tensor in trained.items():
        moved = (tensor.float() - base[name].float()).cpu()
        if moved.ndim < 2:
            arrays[_PLAIN + name] = moved.half().numpy()
            continue
        rows = moved.flatten(1)
        step = (_STEP * rows.square().mean(dim=1, keepdim=True).sqrt()).half().float()
        levels = torch.where(step > 0, rows / step, 0.0).round().clamp(-127, 127)
        arrays[_LEVELS + name] = levels.to(torch.int8).view(moved.shape).numpy()
        arrays[_STEPS + name] = step.half().numpy()
    began = np.array(_fingerprint({name: base[name] for name in trained}))
    with atomic_file(file) as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays, **{_BASE: began})


def read_kept(file: Path, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained tensors, float32, by name.

    Args:
        file: written by `write_kept`.
        base: the tensors that the run began with, among others.

    Raises:
        InputError: the file is none of these, or the run began with other weights.
    """
    try:
        with np.load(file) as archive:
            arrays = {key: archive[key] for key in archive.files}
        began = str(arrays.pop(_BASE))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is no kept training ({error}); write one with: recipes/nano.py keep.") from None
    names = [key.partition("/")[2] for key in arrays if key.startswith((_LEVELS, _PLAIN))]
    if missing := [name for name in names if name not in base]:
        raise InputError(f"{file} trained {missing[0]}, which the model it is read for does not have.")
    if began != _fingerprint({name: base[name] for name in names}):
        raise InputError(f"{file} goes on from other weights than those given; give the model that its run began with.")
    return {name: base[name].float() + _movement(arrays, name) for name in names}


def _movement(arrays: Mapping[str, np.ndarray], name: str) -> Tensor:
    if _PLAIN + name in arrays:
        return torch.from_numpy(arrays[_PLAIN + name]).float()
    levels = torch.from_numpy(arrays[_LEVELS + name]).float()
    return (levels.flatten(1) * torch.from_numpy(arrays[_STEPS + name]).float()).view(levels.shape)


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, and of values in half precision, in which models are saved."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
