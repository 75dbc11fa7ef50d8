"""One training triplet → the tensors and the record of a cached sample, made by `conditions.build` exactly as at inference."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scail2 import conditions
from scail2.conditions import to_pixels
from scail2.data.coverage import LEVELS, latent_coverage
from scail2.data.triplets import TrainingTriplet


def encode_triplet(
    vae: nn.Module, geometry: conditions.ConditionGeometry, triplet: TrainingTriplet, num_parts: int = 0
) -> dict[str, Tensor]:
    """The tensors of one cached sample (no batch axis; `docs/data.md` lists shapes and types).

    Latents are normalised and stored as float16, masks and coverages exactly, as uint8 that counts the pixels of a cell.
    """
    inputs = conditions.build(
        vae,
        geometry,
        mode=triplet.mode,
        reference=to_pixels(triplet.reference[None])[:, :, 0],
        reference_mask=torch.from_numpy(triplet.reference_mask)[None],
        driving=to_pixels(triplet.driving),
        driving_mask=torch.from_numpy(triplet.driving_mask)[None],
        black_out_reference=triplet.black_out_reference,
    )
    tensors = {
        "target": conditions.encode_video(vae, to_pixels(triplet.target))[0].half(),
        "reference": inputs.reference_latents[0].half(),
        "driving": inputs.driving_latents[0].half(),
        "reference_mask": _pixels_of_cells(inputs.reference_masks[0]),
        "driving_mask": _pixels_of_cells(inputs.driving_masks[0]),
        "character": torch.from_numpy(latent_coverage(triplet.region.astype(np.uint8), 1)),
    }
    if triplet.augmented is not None:
        again = conditions.encode_driving(
            vae,
            geometry,
            driving=to_pixels(triplet.augmented.frames),
            driving_mask=torch.from_numpy(triplet.augmented.mask)[None],
        )
        tensors["driving_augmented"] = again.latents[0].half()
        tensors["driving_mask_augmented"] = _pixels_of_cells(again.masks[0])
    if triplet.excluded is not None:
        tensors["excluded"] = torch.from_numpy(latent_coverage(triplet.excluded.astype(np.uint8), 1))
    if triplet.hand_boxes is not None:
        tensors["hand_boxes"] = torch.from_numpy(triplet.hand_boxes).half()
    if num_parts:
        maps = {
            "target": triplet.target_parts,
            "driving": triplet.driving_parts,
            "reference": None if triplet.reference_parts is None else triplet.reference_parts[None],
            "driving_augmented": None if triplet.augmented is None else triplet.augmented.parts,
        }
        for name, parts in maps.items():
            if parts is not None:
                tensors[f"parts_{name}"] = torch.from_numpy(latent_coverage(parts, num_parts))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _pixels_of_cells(shares: Tensor) -> Tensor:
    # Whole numbers already: a mask's cell is the mean of so many pixels that are on or off.
    return (shares * LEVELS).round().to(torch.uint8)


def sample_record(triplet: TrainingTriplet) -> dict[str, Any]:
    """The JSON beside a cached sample's tensors."""
    return {
        "mode": triplet.mode.value,
        "position_mode": triplet.position_mode.value,
        "kind": triplet.kind.value,
        "slots": list(triplet.slots),
        "caption": triplet.caption,
        "levels": LEVELS,
        "augmented_share": triplet.augmented_share,
        "shape": list(triplet.target.shape[:3]),
        **triplet.meta,
    }
