"""IMAGE batches of ComfyUI, float32 (T, H, W, C) in [0, 1], to files that a run can name, and back.

Files are named after their content, so that the same pictures are the same inputs and a run finds what it made before.
"""

import hashlib
import os
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from scail2 import InputError, VideoReader, VideoWriter

# Resizing overshoots the range of an IMAGE a little.
_SLACK = 0.2


def as_bytes(image: torch.Tensor, what: str) -> np.ndarray:
    """uint8 (T, H, W, 3). Raises `InputError` for anything that is no batch of colour pictures."""
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or image.shape[-1] not in (3, 4) or not len(image):
        shape = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
        raise InputError(f"{what} must be an IMAGE batch (frames, height, width, 3), not {shape}.")
    values = image.detach().float().cpu()
    if not image.is_floating_point() or not bool(((values >= -_SLACK) & (values <= 1 + _SLACK)).all()):
        raise InputError(f"{what} holds values outside [0, 1], or none that are numbers: connect an IMAGE.")
    if image.shape[-1] == 4 and not bool(values[..., 3].any()):
        raise InputError(f"{what} is wholly transparent: there is nothing in it.")
    pixels = values[..., :3].clamp(0, 1).mul(255).round()
    return pixels.to(torch.uint8).numpy()


def store_picture(image: torch.Tensor, folder: Path, what: str) -> Path:
    """The first picture of a batch as PNG."""
    from PIL import Image

    pixels = as_bytes(image, what)[0]
    path = folder / f"{_name(pixels)}.png"
    if not path.is_file():
        _publish(path, lambda place: Image.fromarray(pixels).save(place, format="PNG"))
    return path


def store_video(image: torch.Tensor, fps: Fraction, folder: Path, what: str) -> Path:
    """A batch as lossless video."""
    pixels = as_bytes(image, what)
    path = folder / f"{_name(pixels)}-{fps.numerator}-{fps.denominator}.mkv"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, fps, pixels.shape[1:3], codec="ffv1") as writer:
            writer.write(pixels)
    return path


def load_video(path: Path) -> torch.Tensor:
    """A video as IMAGE batch."""
    reader = VideoReader(path)
    return to_image(reader.frames(0, len(reader)))


def to_image(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (T, H, W, 3) as IMAGE batch."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float().div(255)


def rate(fps: float) -> Fraction:
    """Frames a second as the fraction that is meant by a decimal number (23.976 is 24000/1001)."""
    if not 1 <= fps <= 240:
        raise InputError(f"fps must be between 1 and 240, not {fps}.")
    if fps == int(fps):
        return Fraction(int(fps))
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    return ntsc if abs(float(ntsc) - fps) < 0.002 else Fraction(fps).limit_denominator(1000)


def _name(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()[:32]


def _publish(path: Path, write) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, place = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(handle)
    try:
        write(place)
        os.replace(place, path)
    except BaseException:
        os.unlink(place)
        raise
