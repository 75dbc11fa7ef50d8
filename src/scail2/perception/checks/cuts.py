"""Scene cuts: frames at which the picture changes all at once."""

import numpy as np

from scail2.video import SizedFrames

# A cut has to change this share of the coarse colour histogram …
HISTOGRAM_CHANGE = 0.25
# … and this share of full scale on average over the pixels …
PIXEL_CHANGE = 0.08
# … and to stand out by this factor from the changes around it: fast motion is not a cut.
OUTSTANDING = 4.0
_WINDOW = 32
_NEIGHBOURS = 8
_BINS = 4


def _small(frames: np.ndarray, side: int = 48) -> np.ndarray:
    """uint8 (T, H, W, 3) → float32 (T, ≤side, ≤side, 3) in [0, 1], by means over whole blocks."""
    step_y, step_x = max(1, frames.shape[1] // side), max(1, frames.shape[2] // side)
    height, width = frames.shape[1] // step_y * step_y, frames.shape[2] // step_x * step_x
    # Rows first, in which pixels lie beside each other.
    rows = frames[:, :height, :width].reshape(len(frames), height // step_y, step_y, width * 3)
    means = rows.mean(axis=2, dtype=np.float32)
    return means.reshape(len(frames), height // step_y, width // step_x, step_x, 3).mean(axis=3) / 255


def _histograms(small: np.ndarray) -> np.ndarray:
    """Coarse colour histograms float (T, 64), each summing to 1."""
    bins = np.minimum((small * _BINS).astype(np.int64), _BINS - 1)
    codes = (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]
    return np.stack([np.bincount(code.ravel(), minlength=_BINS**3) / code.size for code in codes])


def changes(frames: SizedFrames) -> tuple[np.ndarray, np.ndarray]:
    """Change from each frame to the next: share of the histogram moved, and mean absolute difference; float (T - 1,).

    Frames are read window by window.
    """
    histogram, pixels = [], []
    last = None
    for start in range(0, len(frames), _WINDOW):
        small = _small(frames.frames(start, min(start + _WINDOW, len(frames)))[..., :3])
        if last is not None:
            small = np.concatenate([last, small])
        counted = _histograms(small)
        histogram.append(np.abs(np.diff(counted, axis=0)).sum(axis=1) / 2)
        pixels.append(np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3)))
        last = small[-1:]
    return np.concatenate(histogram), np.concatenate(pixels)


def scene_cuts(frames: SizedFrames) -> list[int]:
    """Numbers of the first frames of new scenes (a cut between frames 9 and 10 is reported as 10)."""
    if len(frames) < 2:
        return []
    histogram, pixels = changes(frames)
    found = []
    for index in np.flatnonzero((histogram > HISTOGRAM_CHANGE) & (pixels > PIXEL_CHANGE)):
        around = np.concatenate(
            [pixels[max(0, index - _NEIGHBOURS) : index], pixels[index + 1 : index + 1 + _NEIGHBOURS]]
        )
        usual = float(np.median(around)) if len(around) else 0.0
        if pixels[index] > OUTSTANDING * usual:
            found.append(int(index) + 1)
    return found
