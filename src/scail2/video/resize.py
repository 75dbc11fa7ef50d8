"""Resizing: cover + centre crop, or letterbox, always antialiased bicubic with the same arithmetic.

Pillow does the resampling, for bytes and for floats: its uint8 path is integer arithmetic and gives the same bits on
every machine. The part of the source that stays visible is cut out as an exact (fractional) box in the same pass, so
extreme aspect ratios never build a huge intermediate picture.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from scail2.errors import InputError
from scail2.video.source import check_frame_size

if TYPE_CHECKING:
    import torch

Pixels = TypeVar("Pixels", np.ndarray, "torch.Tensor")


class Fit(StrEnum):
    """How a frame meets a target of another aspect ratio."""

    COVER = "cover"  # fill the target, crop what sticks out, evenly on both sides
    LETTERBOX = "letterbox"  # show everything, fill the rest with a plain colour

    @classmethod
    def parse(cls, value: "str | Fit") -> "Fit":
        try:
            return cls(value)
        except ValueError:
            raise InputError(f"fit must be one of {', '.join(cls)}, got {value!r}") from None


class Interpolation(StrEnum):
    """Bicubic (antialiased) for pictures; nearest for masks, whose exact colours carry meaning."""

    BICUBIC = "bicubic"
    NEAREST = "nearest"

    @classmethod
    def parse(cls, value: "str | Interpolation") -> "Interpolation":
        try:
            return cls(value)
        except ValueError:
            raise InputError(f"interpolation must be one of {', '.join(cls)}, got {value!r}") from None


_RESAMPLING = {
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.NEAREST: Image.Resampling.NEAREST,
}


def cover_box(height: int, width: int, target_height: int, target_width: int) -> tuple[float, float, float, float]:
    """The centred part of a ``height × width`` picture that has the target's aspect: (left, top, right, bottom)."""
    scale = max(target_height / height, target_width / width)
    visible_height, visible_width = min(height, target_height / scale), min(width, target_width / scale)
    left, top = (width - visible_width) / 2, (height - visible_height) / 2
    return left, top, left + visible_width, top + visible_height


def letterbox_size(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """(height, width) of the whole picture inside the target, at least one pixel each."""
    scale = min(target_height / height, target_width / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_cover(pixels: Pixels, height: int, width: int, *, interpolation: str = "bicubic") -> Pixels:
    """Scales to cover ``height × width`` and crops the centre.

    Args:
        pixels: uint8 or float array ``(..., H, W, C)`` with C in 1, 3, 4, or a torch tensor ``(..., C, H, W)`` (uint8
            or float, any range). Bicubic overshoot of floats is kept, of bytes clipped.
        interpolation: ``"bicubic"`` (antialiased) or ``"nearest"`` (masks: no new values appear).

    Returns:
        The same kind, dtype and leading dimensions, with the new size; the input itself if the size is right already.

    Raises:
        InputError: a target that is not a sensible size.
    """
    return _resize(pixels, height, width, Fit.COVER, interpolation, 0)


def resize_letterbox(
    pixels: Pixels, height: int, width: int, *, interpolation: str = "bicubic", fill: float | tuple[float, ...] = 0
) -> Pixels:
    """Scales to fit inside ``height × width``, centred, the border filled with ``fill`` (one value or one per
    channel); other arguments as above."""
    return _resize(pixels, height, width, Fit.LETTERBOX, interpolation, fill)


def resize_stretch(pixels: Pixels, height: int, width: int, *, interpolation: str = "bicubic") -> Pixels:
    """Scales each axis by itself, so that everything stays visible (pixels that are not square become square so); other
    arguments as above."""
    return _resize(pixels, height, width, None, interpolation, 0)


def _resize(pixels, height: int, width: int, fit: Fit | None, interpolation: str, fill):
    check_target(height, width)
    method = Interpolation.parse(interpolation)
    if isinstance(pixels, np.ndarray):
        return _resize_array(pixels, (height, width), fit, method, fill)
    import torch

    if tuple(pixels.shape[-2:]) == (height, width):
        return pixels
    channels_last = pixels.detach().movedim(-3, -1).cpu()
    half = channels_last.dtype in (torch.bfloat16, torch.float16)
    resized = _resize_array(
        (channels_last.float() if half else channels_last).numpy(), (height, width), fit, method, fill
    )
    return torch.from_numpy(resized).movedim(-1, -3).to(device=pixels.device, dtype=pixels.dtype)


def check_target(height: Any, width: Any) -> None:
    """Raises InputError unless both are whole positive numbers of a size that a frame can have (NaN is neither)."""
    for name, value in (("height", height), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            hint = f"; write {int(value)}" if isinstance(value, float) and value.is_integer() else ""
            raise InputError(f"{name} must be a whole number of pixels, got {value!r}{hint}")
        if value < 1:
            raise InputError(f"{name} must be at least 1 pixel, got {value}")
    check_frame_size("the wanted size", int(width), int(height))


def _resize_array(pixels: np.ndarray, size: tuple[int, int], fit: Fit | None, method: Interpolation, fill):
    if pixels.ndim < 3:
        raise InputError(f"pixels must have the shape (..., H, W, C), got {pixels.shape}")
    if pixels.shape[-3:-1] == size:
        return pixels
    *leading, source_height, source_width, channels = pixels.shape
    flat = pixels.reshape(-1, source_height, source_width, channels)
    result = np.full((len(flat), *size, channels), fill, dtype=pixels.dtype)
    inner, box = size, (0.0, 0.0, float(source_width), float(source_height))
    if fit is Fit.COVER:
        box = cover_box(source_height, source_width, *size)
    elif fit is Fit.LETTERBOX:
        inner = letterbox_size(source_height, source_width, *size)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    for picture, out in zip(flat, result, strict=True):
        out[top : top + inner[0], left : left + inner[1]] = _resize_picture(picture, inner, box, method)
    return result.reshape(*leading, *size, channels)


def _as_image(picture: np.ndarray) -> Image.Image:
    """Pixels uint8 ``(H, W, 3)`` as Pillow has them, in steps of four bytes: three times as fast where they lie so already."""
    height, width, _ = picture.shape
    whole = picture.base
    if (
        isinstance(whole, np.ndarray)
        and whole.shape == (height, width, 4)
        and whole.dtype == np.uint8
        and whole.flags.c_contiguous
        and picture.strides == whole.strides
        and picture.ctypes.data == whole.ctypes.data
    ):
        return Image.frombytes("RGB", (width, height), memoryview(whole.data), "raw", "RGBX")
    return Image.fromarray(np.ascontiguousarray(picture), "RGB")


def _resize_picture(picture: np.ndarray, size: tuple[int, int], box, method: Interpolation) -> np.ndarray:
    def scale(plane: Image.Image) -> np.ndarray:
        return np.asarray(plane.resize((size[1], size[0]), _RESAMPLING[method], box=box))

    if picture.dtype == np.uint8 and picture.shape[-1] == 3:
        return scale(_as_image(picture))
    # Alpha is scaled like any other plane (Pillow would premultiply "RGBA"); floats go plane by plane as well.
    planes = picture if picture.dtype == np.uint8 else picture.astype(np.float32, copy=False)
    scaled = [scale(Image.fromarray(np.ascontiguousarray(planes[..., c]))) for c in range(planes.shape[-1])]
    return np.stack(scaled, axis=-1).astype(picture.dtype, copy=False)
