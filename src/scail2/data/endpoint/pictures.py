"""Pictures as a request carries them: inside its size limits, with as little loss as they allow."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from scail2.errors import InputError

_QUALITIES = (95, 85, 75)
_SHRINK = 0.75


def encoded_picture(picture: np.ndarray, side: int, size: int) -> tuple[str, bytes]:
    """A picture's media type and bytes.

    PNG where that fits; else JPEG of falling quality; else smaller, until it does. Never enlarged.

    Args:
        picture: uint8 ``(H, W, 3)``.
        side: longest side in pixels.
        size: most bytes.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        raise InputError(f"A picture to show is uint8 (H, W, 3), not {picture.dtype} {picture.shape}.")
    image = Image.fromarray(np.ascontiguousarray(picture))
    scale = min(1.0, side / max(image.size))
    while True:
        shown = image
        if scale < 1.0:
            width, height = (max(1, round(scale * each)) for each in image.size)
            shown = image.resize((width, height), Image.Resampling.BICUBIC)
        content = _saved(shown, "PNG")
        if len(content) <= size:
            return "image/png", content
        for quality in _QUALITIES:
            content = _saved(shown, "JPEG", quality=quality, subsampling=0)
            if len(content) <= size:
                return "image/jpeg", content
        if max(shown.size) == 1:
            raise InputError(f"No picture fits into {size} bytes: allow more (picture_bytes).")
        scale *= _SHRINK


def data_urls(pictures: Sequence[np.ndarray], side: int, size: int) -> list[str]:
    """Pictures as ``data:`` addresses."""
    encoded = (encoded_picture(picture, side, size) for picture in pictures)
    return [f"data:{kind};base64,{base64.b64encode(content).decode()}" for kind, content in encoded]


def _saved(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
