"""Which placement a model gets where none is named: the one that keeps most of it on the device and still fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from scail2.budget.shapes import ModelShape
from scail2.errors import InputError
from scail2.loading.facts import open_model
from scail2.request.placement import Placement, PlacementKind

# A video of 512x896 in 81 frames has so many tokens; a pass holds about so many times one bfloat16 activation of them, and
# the autoencoder's decoder so many bytes for each of its pixels.
_TOKENS, _ACTIVATIONS, _DECODER = 48_832, 13.1, 5309 * 2
_PIXELS = 512 * 896


def choose_placement(placement: Placement | str, path: Path, device: torch.device) -> Placement:
    """A placement with a kind that was chosen: the named one, or for ``auto`` the first that fits the device's free memory.

    Raises InputError for a name that is no kind.
    """
    wanted = placement if isinstance(placement, Placement) else Placement(kind=_kind(placement))
    if wanted.kind is not PlacementKind.AUTO:
        return wanted
    if device.type != "cuda":
        # In main memory as on a device: what has been used makes room.
        return replace(wanted, kind=PlacementKind.ENCODERS_FIRST)
    free, _ = torch.cuda.mem_get_info(device)
    return replace(wanted, kind=fitting_kind(open_model(path).shape, free))


def fitting_kind(shape: ModelShape, free: int) -> PlacementKind:
    """The kind that keeps most of a model on a device with so many free bytes, for videos of the published size."""
    encoders = sum(
        2 * each.weights.parameters for each in (shape.text_encoder, shape.image_encoder) if each is not None
    )
    transformer = 2 * shape.transformer.weights.parameters
    work = (
        max(_ACTIVATIONS * _TOKENS * shape.transformer.dim * 2, _DECODER * _PIXELS)
        + 4 * shape.autoencoder.weights.parameters
    )
    if encoders + transformer + work <= free:
        return PlacementKind.RESIDENT
    return PlacementKind.ENCODERS_FIRST if transformer + work <= free else PlacementKind.BLOCK_OFFLOAD


def _kind(name: str) -> PlacementKind:
    try:
        return PlacementKind(name)
    except ValueError:
        raise InputError(f"There is no placement called {name!r}: choose one of {', '.join(PlacementKind)}.") from None
