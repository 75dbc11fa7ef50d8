"""Augmentation of driving videos: the network must not rely on where and how large the driving character stands."""

import numpy as np
import torch
import torch.nn.functional as F

from scail2.errors import InputError

Array = np.ndarray

LARGEST_SCALE = 0.25
"""Skeletons are scaled by e^-this … e^+this."""


def crop_and_stretch(
    frames: Array, tracks: Array, parts: Array | None, generator: np.random.Generator
) -> tuple[Array, Array, Array | None]:
    """Cuts one window of random area and aspect out of all frames and stretches it to full size.

    The window keeps the characters: it contains the box around all of them whenever that box fits, so no limb is lost.

    Args:
        frames: uint8 `(T, H, W, 3)`. tracks: bool `(S, T, H, W)`. parts: uint8 `(T, H, W)` or None.

    Returns:
        The same three at the same size; frames bilinear, maps by nearest pixel.
    """
    height, width = frames.shape[1:3]
    top, bottom = _window(np.flatnonzero(tracks.any(axis=(0, 1, 3))), height, generator)
    left, right = _window(np.flatnonzero(tracks.any(axis=(0, 1, 2))), width, generator)
    window = (slice(top, bottom), slice(left, right))
    cut = _resize(frames[:, *window], (height, width))
    rows = (np.arange(height) * (bottom - top) // height) + top
    columns = (np.arange(width) * (right - left) // width) + left
    picked = np.ix_(rows, columns)
    return cut, tracks[:, :, *picked], None if parts is None else parts[:, *picked]


def _window(occupied: Array, size: int, generator: np.random.Generator, smallest: float = 0.6) -> tuple[int, int]:
    """Start and stop of a window along one axis, at least `smallest` of it, around the occupied indices."""
    length = round(size * generator.uniform(smallest, 1.0))
    low, high = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 0)
    length = min(size, max(length, high - low))
    start = int(generator.integers(max(0, high - length), min(low, size - length) + 1))
    return start, start + length


def scale_about_feet(frames: Array, tracks: Array, factors: Array) -> tuple[Array, Array]:
    """Scales a pose render on black by (vertical, horizontal) factors about the characters' lowest middle point.

    Args:
        frames: uint8 `(T, H, W, 3)` on black. tracks: bool `(S, T, H, W)`. factors: two positive floats.
    """
    height, width = frames.shape[1:3]
    rows = np.flatnonzero(tracks.any(axis=(0, 1, 3)))
    columns = np.flatnonzero(tracks.any(axis=(0, 1, 2)))
    if not len(rows):
        return frames, tracks
    foot, middle = float(rows[-1]), float(columns[0] + columns[-1]) / 2
    from_rows = np.rint(foot + (np.arange(height) - foot) / factors[0]).astype(int)
    from_columns = np.rint(middle + (np.arange(width) - middle) / factors[1]).astype(int)
    inside = ((from_rows >= 0) & (from_rows < height))[:, None] & ((from_columns >= 0) & (from_columns < width))
    picked = np.ix_(from_rows.clip(0, height - 1), from_columns.clip(0, width - 1))
    return frames[:, *picked] * inside[..., None].astype(np.uint8), tracks[:, :, *picked] & inside


def scale_limbs(joints: Array, size: tuple[int, int], generator: np.random.Generator) -> tuple[Array, Array]:
    """Other bodies in the same motion: each sort of limb gets its own length, and the poses are drawn again.

    Args:
        joints: float `(S, T, J, 2)` pixels in the puppets' topology (`scail2.puppets.JOINT_NAMES`), NaN where unknown.
        size: height and width of the picture.

    Returns:
        Frames uint8 `(T, H, W, 3)` on black, and where each skeleton is drawn, bool `(S, T, H, W)`.

    Raises:
        InputError: another topology, or what draws is not installed.
    """
    try:
        from scail2.puppets import draw_poses, reshape_skeleton
    except ImportError as error:
        raise InputError(
            "Skeletons with joints are drawn again in training data; that takes the extra data: "
            'pip install "scail2[data]".'
        ) from error
    reshaped = np.stack([reshape_skeleton(each, generator, LARGEST_SCALE) for each in joints])
    return draw_poses(reshaped, height=size[0], width=size[1])


def _resize(frames: Array, size: tuple[int, int]) -> Array:
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
