"""Measures of a generated clip against the true one: pure functions on arrays.

Clips are uint8 `(T, H, W, 3)`; regions bool `(T, H, W)`; part maps uint8 `(T, H, W)` with 0 for none. Each formula is
in its function and explained for readers of the tables in `docs/evaluation.md`.
"""

from collections.abc import Collection

import numpy as np
import torch
import torch.nn.functional as F

Array = np.ndarray

PSNR_CEILING = 60.0
"""dB reported for equal pixels (a table of infinities has no mean)."""

MOTION_STRIDE = 4
"""Frames between the two ends of a frame difference: one latent frame of motion."""


def psnr(output: Array, truth: Array, region: Array | None = None) -> float:
    """10 log10(255² / mean squared error) in dB over all pixels and channels, or over a region's; nan for an empty one."""
    error = (output.astype(np.float32) - truth.astype(np.float32)) ** 2
    if region is not None:
        error = error[region]
    if not error.size:
        return float("nan")
    mse = float(error.mean(dtype=np.float64))
    return PSNR_CEILING if mse <= 0 else min(PSNR_CEILING, 10 * np.log10(255.0**2 / mse))


def ssim_map(output: Array, truth: Array, window: int = 7) -> Array:
    """Structural similarity of each pixel's neighbourhood, `(T, H, W)` float32, mean of the three channels.

    Wang et al. 2004 with a flat `window`×`window` window (as scikit-image's default), K1 = 0.01, K2 = 0.03.
    """
    x, y = (torch.tensor(clip).permute(0, 3, 1, 2).float() for clip in (output, truth))
    unbias = window**2 / (window**2 - 1)
    mean_x, mean_y = _windowed(x, window), _windowed(y, window)
    var_x = unbias * (_windowed(x * x, window) - mean_x**2)
    var_y = unbias * (_windowed(y * y, window) - mean_y**2)
    covariance = unbias * (_windowed(x * y, window) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean(dim=1).numpy()


def _windowed(values: torch.Tensor, window: int) -> torch.Tensor:
    """Mean over a window around each pixel, borders mirrored."""
    half = window // 2
    padded = F.pad(values, (half, half, half, half), mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(padded, (window, 1), stride=1), (1, window), stride=1)


def ssim(output: Array, truth: Array, region: Array | None = None) -> float:
    """Mean of `ssim_map` over all pixels, or over a region's; nan for an empty one."""
    values = ssim_map(output, truth)
    if region is not None:
        values = values[region]
    return float(values.mean()) if values.size else float("nan")


def frame_difference_correlation(output: Array, truth: Array, stride: int = MOTION_STRIDE) -> float:
    """Cosine between x[t + stride] − x[t] of output and truth, all pixels and frames as one vector; in [-1, 1].

    1: the same pixels change in the same way; 0: nothing moves, or elsewhere. nan if the truth does not move.
    """
    moved = [np.subtract(clip[stride:], clip[:-stride], dtype=np.float32).ravel() for clip in (output, truth)]
    norms = [float(np.linalg.norm(change)) for change in moved]
    if norms[1] == 0:
        return float("nan")
    return 0.0 if norms[0] == 0 else float(np.dot(moved[0], moved[1]) / (norms[0] * norms[1]))


def temporal_smoothness(output: Array, truth: Array) -> float:
    """Flicker of the output relative to the truth: ratio of mean |x[t−1] − 2 x[t] + x[t+1]|; 1 is right, above flickers."""
    bend = [
        float(np.abs(clip[:-2].astype(np.float32) - 2.0 * clip[1:-1] + clip[2:]).mean()) for clip in (output, truth)
    ]
    return bend[0] / bend[1] if bend[1] > 0 else float("nan")


def seam_energy(output: Array, seams: Collection[int]) -> float:
    """How much more happens at segment boundaries than beside them.

    Mean over seams s (index of a segment's first new frame) of |x[s] − x[s−1]| divided by the mean of the two
    differences around it; 1 is seamless. nan without seams (or where nothing moves).
    """
    ratios = []
    for seam in seams:
        if not 2 <= seam <= len(output) - 2:
            continue
        window = output[seam - 2 : seam + 2].astype(np.float32)
        before, at, after = np.abs(np.diff(window, axis=0)).mean(axis=(1, 2, 3))
        if before + after > 0:
            ratios.append(2 * at / (before + after))
    return float(np.mean(ratios)) if ratios else float("nan")


def identity_similarity(
    output: Array, region: Array, reference: Array, reference_region: Array, bins: int = 8
) -> float:
    """A proxy for identity without a network: do the character's colours occur in the reference's proportions?

    Bhattacharyya coefficient, in [0, 1], of the colour histograms (`bins`³) of the output inside the true region and of
    the reference picture inside its mask. Blind to shape. nan if either region is empty.
    """
    if not region.any() or not reference_region.any():
        return float("nan")
    histograms = [_histogram(output[region], bins), _histogram(reference[reference_region], bins)]
    return float(np.sqrt(histograms[0] * histograms[1]).sum())


def _histogram(pixels: Array, bins: int) -> Array:
    """Normalised colour histogram; every pixel is shared linearly between neighbouring bins, so shades do not jump."""
    position = pixels.reshape(-1, 3).astype(np.float32) * ((bins - 1) / 255.0)
    low = np.minimum(position.astype(int), bins - 2)
    part = position - low
    histogram = np.zeros(bins**3)
    for corner in np.ndindex(2, 2, 2):
        index = ((low + corner) @ (bins * bins, bins, 1)).astype(int)
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        histogram += np.bincount(index, weights=weight, minlength=bins**3)
    return histogram / histogram.sum()
