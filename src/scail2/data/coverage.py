"""Pixel maps to coverage on the latent grid, packed in time exactly like in-context masks."""

import numpy as np

from scail2.errors import InputError

SPATIAL = 8  # latent stride in height and width
TEMPORAL = 4  # sub-frames per latent frame
LEVELS = SPATIAL**2  # pixels of a cell: shares of it are whole numbers of these


def latent_coverage(ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each latent cell covered by each class, with the four frames of a latent frame kept apart.

    Frame 0 is repeated four times, then groups of four frames are stacked on the channel axis, frame-major: channel
    f·P + p is class p + 1 in sub-frame f, as in the 28 mask channels.

    Args:
        ids: Integers `(T, H, W)`, T = 4k + 1, H and W multiples of 8; 0 is "none", 1 … `num_classes` are the classes.
        num_classes: P.

    Returns:
        uint8 `(4·P, 1 + (T − 1) / 4, H / 8, W / 8)`: covered pixels of the cell's 64 (`LEVELS`).

    Raises:
        InputError: sizes not of that form.
    """
    frames, height, width = ids.shape
    if (frames - 1) % TEMPORAL or height % SPATIAL or width % SPATIAL:
        raise InputError(
            f"coverage needs 4k+1 frames and sides divisible by 8, not {frames} frames of {width}×{height}"
        )
    rows, columns = height // SPATIAL, width // SPATIAL
    # One histogram over (frame, cell, class) instead of P passes over the pixels.
    cell_row = np.arange(height, dtype=np.int32) // SPATIAL
    cell_column = np.arange(width, dtype=np.int32) // SPATIAL
    cell = cell_row[:, None] * columns + cell_column[None, :]
    slot = (np.arange(frames, dtype=np.int32)[:, None, None] * (rows * columns) + cell) * (num_classes + 1)
    counts = np.bincount((slot + ids).ravel(), minlength=frames * rows * columns * (num_classes + 1))
    counts = counts.reshape(frames, rows, columns, num_classes + 1)[..., 1:]
    coverage = counts.astype(np.uint8)
    repeated = np.concatenate([np.repeat(coverage[:1], TEMPORAL, axis=0), coverage[1:]])
    grouped = repeated.reshape(-1, TEMPORAL, rows, columns, num_classes)
    packed = grouped.transpose(1, 4, 0, 2, 3)
    return np.ascontiguousarray(packed.reshape(TEMPORAL * num_classes, -1, rows, columns))
