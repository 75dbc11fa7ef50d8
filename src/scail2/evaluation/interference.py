"""What goes wrong when an input's meaning is lost: the wrong scene, the other mode, exchanged people, broken overlaps.

Each measure holds an output between the truth and a picture of the very mistake it looks for. Clips are uint8 `(T, H, W, 3)`,
regions bool `(T, H, W)`, tracks bool `(S, T, H, W)`.
"""

import numpy as np

from scail2.evaluation.detail import grown
from scail2.evaluation.metrics import psnr

Array = np.ndarray

# Squared RGB distance from which right and wrong can be told apart: 32 grey levels a channel.
_TOLD_APART = 3 * 32.0**2


def _apart(right: Array, wrong: Array, region: Array) -> Array:
    """Pixels of the region in which the mistake differs from the truth."""
    return region & (((right.astype(np.float32) - wrong) ** 2).sum(axis=-1) >= _TOLD_APART)


def wrong_share(output: Array, right: Array, wrong: Array, region: Array) -> float:
    """Share of a region's pixels that are nearer in colour to the mistake than to the truth, in [0, 1].

    Only pixels count in which the two differ by 32 grey levels a channel or more; nan where there are none.
    """
    told = _apart(right, wrong, region)
    if not told.any():
        return float("nan")
    shown = output[told].astype(np.float32)
    distances = [((shown - clip[told]) ** 2).sum(axis=-1) for clip in (right, wrong)]
    return float((distances[1] < distances[0]).mean())


def pull(output: Array, right: Array, wrong: Array, region: Array) -> float:
    """How far an output lies from the truth towards the mistake: Σ⟨o − r, w − r⟩ / Σ|w − r|² over the region's pixels.

    0 is the truth, 1 the mistake, 0.5 a mixture of equal parts; blur does not count. Pixels as in `wrong_share`.
    """
    told = _apart(right, wrong, region)
    if not told.any():
        return float("nan")
    truth = right[told].astype(np.float64)
    way = wrong[told] - truth
    return float(((output[told] - truth) * way).sum() / (way**2).sum())


def identity_swaps(output: Array, right: Array, exchanged: Array, tracks: Array) -> float:
    """Share of the characters that look more like the next one in their place than like themselves, in [0, 1].

    Args:
        exchanged: the truth with every character in the next one's place.
        tracks: the true characters. One that the exchange hardly changes does not count; nan where none counts.
    """
    swapped = []
    for track in tracks:
        told = _apart(right, exchanged, track)
        if not told.any():
            continue
        shown = output[told].astype(np.float32)
        errors = [float(((shown - clip[told]) ** 2).mean()) for clip in (right, exchanged)]
        swapped.append(errors[1] < errors[0])
    return float(np.mean(swapped)) if swapped else float("nan")


def overlap_region(tracks: Array, pixels: int) -> Array:
    """Where characters meet: pixels of one that lie within so many of another, bool `(T, H, W)`."""
    near = np.stack([grown(track, pixels) for track in tracks])
    return np.asarray(tracks.any(axis=0) & (near.sum(axis=0) >= 2))


def overlap_psnr(output: Array, truth: Array, tracks: Array) -> float:
    """PSNR in dB where characters meet, within a sixteenth of the frame's height; nan where they never do."""
    return psnr(output, truth, overlap_region(tracks, max(1, truth.shape[1] // 16)))
