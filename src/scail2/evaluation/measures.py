"""All measures of one clip, by their names in tables and JSON."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from scail2.evaluation import detail, metrics
from scail2.evaluation.clips import EvaluationClip
from scail2.evaluation.limbs import limb_iou
from scail2.puppets import PART_NAMES

Array = np.ndarray

LIMB_PARTS = frozenset(number for number, name in enumerate(PART_NAMES, start=1) if name not in ("head", "torso"))
"""Part ids of arms, hands, legs and feet."""

DETAILS = {
    name: frozenset(number for number, part in enumerate(PART_NAMES, start=1) if part.startswith(name))
    for name in ("head", "hand")
}
"""Part ids of what people look at first."""


def measure_clip(output: Array, clip: EvaluationClip, seams: Collection[int] = ()) -> dict[str, float]:
    """Every measure that needs no network.

    Args:
        output: uint8 `(T, H, W, 3)`, same shape as the clip's truth.
        seams: frame indices at which a new segment begins.

    Returns:
        By name; a measure that does not apply is nan.
    """
    truth, region = clip.truth, clip.triplet.region
    similarity = metrics.ssim_map(output, truth)
    parts = clip.triplet.target_parts
    return {
        "psnr": metrics.psnr(output, truth),
        "ssim": float(similarity.mean()),
        "character_psnr": metrics.psnr(output, truth, region),
        "character_ssim": float(similarity[region].mean()) if region.any() else float("nan"),
        **{f"{name}_psnr": part_psnr(output, truth, parts, ids) for name, ids in DETAILS.items()},
        "background_psnr": metrics.psnr(output, truth, ~region),
        "frame_difference_correlation": metrics.frame_difference_correlation(output, truth),
        "limb_iou": float("nan") if parts is None else limb_iou(output, truth, parts, clip.plate, LIMB_PARTS),
        "sharpness": detail.sharpness(output, truth, region),
        "background_sharpness": detail.sharpness(output, truth, ~region),
        "edge_f1": detail.edge_f1(output, truth, region),
        "eyes_found": float("nan") if parts is None else detail.eyes_found(output, truth, parts, DETAILS["head"]),
        "flicker": detail.flicker(output, truth),
        "identity": metrics.identity_similarity(output, region, clip.triplet.reference, clip.reference_region),
        "temporal_smoothness": metrics.temporal_smoothness(output, truth),
        "seam_energy": metrics.seam_energy(output, seams),
    }


def part_psnr(output: Array, truth: Array, parts: Array | None, ids: frozenset[int]) -> float:
    """PSNR over the pixels of body parts; nan where parts are not known or not seen."""
    return float("nan") if parts is None else metrics.psnr(output, truth, np.isin(parts, list(ids)))


def copy_reference(clip: EvaluationClip) -> Array:
    """Baseline: the reference picture, held for the whole clip."""
    return np.broadcast_to(clip.triplet.reference, clip.truth.shape)


def copy_driving(clip: EvaluationClip) -> Array:
    """Baseline: the driving video as it is."""
    return clip.triplet.driving


BASELINES: Mapping[str, Any] = {"copy_reference": copy_reference, "copy_driving": copy_driving}
