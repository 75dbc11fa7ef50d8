"""Frames in 256 colours, for GIF."""

import numpy as np
from PIL import Image

_COLOURS = 256
_CLEAR = 255  # index of the transparent entry
_SEEN = 128  # alpha from which a pixel is there


def paletted(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A frame's own best 256 colours, errors spread to the neighbours (Floyd and Steinberg).

    Args:
        frame: uint8 (H, W, 3), or (H, W, 4) with straight alpha: then 255 colours, and one entry for what is transparent.

    Returns:
        Indices uint8 (H, W) and the palette uint8 (256, 4) as alpha, red, green, blue.
    """
    alpha = frame.shape[-1] == 4
    picture = Image.fromarray(np.ascontiguousarray(frame[..., :3]))
    chosen = picture.quantize(_COLOURS - alpha, method=Image.Quantize.MEDIANCUT)
    indices = np.array(picture.quantize(palette=chosen, dither=Image.Dither.FLOYDSTEINBERG))
    colours = np.array(chosen.getpalette(), np.uint8).reshape(-1, 3)[:_COLOURS]
    palette = np.zeros((_COLOURS, 4), np.uint8)
    palette[:, 0] = 255
    palette[: len(colours), 1:] = colours
    if alpha:
        indices = np.where(frame[..., 3] < _SEEN, _CLEAR, indices)
        palette[_CLEAR] = 0
    return indices.astype(np.uint8), palette
