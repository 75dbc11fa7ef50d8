"""Between the model's floats in [-1, 1] and a file's bytes in 0 … 255."""

from typing import TYPE_CHECKING

import numpy as np

from scail2.errors import InputError

if TYPE_CHECKING:
    import torch


def to_uint8(frames: "torch.Tensor | np.ndarray") -> np.ndarray:
    """Float ``(T, 3, H, W)`` in [-1, 1] to uint8 RGB ``(T, H, W, 3)``: clipped, rounded to nearest, -1 → 0, 1 → 255.

    Raises:
        InputError: NaN or infinity among the values; a broken picture must not look like a black one.
        ValueError: another shape.
    """
    values = frames if isinstance(frames, np.ndarray) else frames.detach().float().cpu().numpy()
    if values.ndim != 4 or values.shape[1] not in (3, 4):
        raise ValueError(f"frames must have the shape (T, 3, H, W), got {tuple(values.shape)}")
    refuse_overflow(values)
    scaled = np.clip(np.rint((values.astype(np.float32, copy=False) + 1.0) * 127.5), 0, 255)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))


def refuse_overflow(values: "torch.Tensor | np.ndarray") -> None:
    """Raises `InputError` for NaN or infinity among the values; a broken picture must not look like a black one."""
    finite = np.isfinite(values) if isinstance(values, np.ndarray) else values.isfinite()
    if not bool(finite.all()):
        raise InputError(
            "frames contain NaN or infinite values: the model overflowed, use another dtype (bfloat16 or float32)"
        )


def to_float(frames: np.ndarray) -> "torch.Tensor":
    """uint8 RGB ``(T, H, W, 3)`` to float32 ``(T, 3, H, W)`` in [-1, 1], the inverse of :func:`to_uint8`."""
    import torch

    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 127.5 - 1.0
