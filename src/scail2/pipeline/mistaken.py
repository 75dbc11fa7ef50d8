"""What callers hand over by mistake, told apart and named: paths, other layouts, other ranges, mattes, lists where one is meant.

Each function is called with something that the pipeline cannot use as it is, or that is usable but hardly what was meant.
Sentences speak of what was given and of the expression that makes the right thing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scail2.errors import InputError, short

# Floats a little outside of [-1, 1] come out of decoders and are clipped; further out they are of another range.
_OVERSHOOT = 1.5
_A_PICTURE = "a PIL image, a uint8 array (H, W, 3) or a float tensor (3, H, W) in [-1, 1]"
_A_VIDEO = "a uint8 array (T, H, W, 3), a float tensor (T, 3, H, W) in [-1, 1], a list of pictures or a VideoReader"


def refuse_picture(given: Any, name: str) -> NoReturn:
    """Raises `InputError` that says why ``given`` is no picture, and what makes one of it."""
    if given is None:
        raise InputError(f"{name} is missing: give {_A_PICTURE}.")
    if isinstance(given, str | Path):
        raise InputError(f"{name} is a path, not a picture: open it with scail2.read_image({str(given)!r}).")
    if isinstance(given, list | tuple):
        raise InputError(
            f"{name} is a list of {len(given)} where one picture is meant: give one, and further views of the characters as "
            "additional_references."
        )
    if isinstance(given, np.ndarray | Tensor):
        _refuse_layout(given, name, axes="H, W", what="one picture")
    raise InputError(f"{name} must be {_A_PICTURE}, not {_described(given)}.")


def refuse_video(given: Any, name: str) -> NoReturn:
    """Raises `InputError` that says why ``given`` is no video, and what makes one of it."""
    if isinstance(given, str | Path):
        raise InputError(f"{name} is a path, not a video: open it with scail2.VideoReader({str(given)!r}).")
    if isinstance(given, Image.Image):
        raise InputError(f"{name} is one picture where a video is meant: give {_A_VIDEO}.")
    if isinstance(given, Iterator):
        raise InputError(f"{name} is an iterator, which can be read only once: give list(...) of it, or a VideoReader.")
    if isinstance(given, list | tuple) and not given:
        raise InputError(f"{name} has no frames.")
    if isinstance(given, np.ndarray | Tensor):
        if given.ndim == 3:
            raise InputError(f"{name} is one picture, {_described(given)}, where a video (T, H, W, 3) is meant.")
        _refuse_layout(given, name, axes="T, H, W", what="one video")
    raise InputError(f"{name} must be {_A_VIDEO}, not {_described(given)}.")


def _refuse_layout(given: np.ndarray | Tensor, name: str, *, axes: str, what: str) -> None:
    """Refuses an array whose axes or numbers are others than those of a picture (H, W, 3) or video (T, H, W, 3)."""
    shape, wanted = tuple(given.shape), len(axes.split(",")) + 1
    described = f"{name} is {_described(given)}"
    floats = _is_float(given)
    if 0 in shape:
        raise InputError(f"{described}: it is empty.")
    if len(shape) == wanted + 1:
        way = f"take {name}[0]" if shape[0] == 1 else "give them one by one"
        raise InputError(f"{described}, a batch of {shape[0]} where {what} is meant: {way}.")
    if len(shape) != wanted:
        return
    if _dtype(given) == "bool":
        raise InputError(f"{described}: true and false make a mask, not a picture.")
    first = shape[-3] in (1, 3, 4) and min(shape[-2:]) >= 8
    if wanted == 4 and not first and shape[0] == 3:
        raise InputError(f"{described}: frames come first, ({axes}, 3), and in float tensors (T, 3, H, W).")
    tensor = isinstance(given, Tensor)
    if first and shape[-1] not in (3, 4) and not (floats and tensor):
        moved = f".permute{(1, 2, 0) if wanted == 3 else (0, 2, 3, 1)}" if tensor else f", {wanted - 3}, -1)"
        way = f"{name}{moved}" if tensor else f"np.moveaxis({name}{moved}"
        raise InputError(f"{described}, with its channels first: {way} makes ({axes}, 3) of it{_and_bytes(given)}.")
    if shape[-1] in (1, 3, 4) and floats:
        raise InputError(f"{described}, in floats: {to_bytes(given)} makes bytes of it.")
    if shape[-1] in (1, 3, 4) and not floats and _dtype(given) not in ("uint8", "uint16"):
        raise InputError(f"{described}: {_cast(given, name)} makes bytes of it.")


def _and_bytes(given: np.ndarray | Tensor) -> str:
    return "" if _dtype(given) in ("uint8", "uint16") else f", and {to_bytes(given)} bytes"


def check_floats(given: Tensor, name: str) -> None:
    """Refuses float pixels whose values say that they are not in [-1, 1]: 0 to 255, 0 to 1, or no numbers."""
    if not bool(torch.isfinite(given).all()):
        raise InputError(f"{name} holds values that are no numbers (NaN or infinite).")
    low, high = float(given.min()), float(given.max())
    if low < -_OVERSHOOT or high > _OVERSHOOT:
        raise InputError(
            f"{name} holds floats from {low:.4g} to {high:.4g}; a float tensor is read as [-1, 1]: pass x / 127.5 - 1 where it "
            "counts to 255."
        )
    if low >= 0 and bool(((given > 0) & (given < 1)).any()):
        raise InputError(
            f"{name} holds floats from {low:.4g} to {high:.4g}, as pictures in [0, 1] do; a float tensor is read as [-1, 1]: "
            "pass x * 2 - 1 (a picture that really is brighter than mid grey everywhere, as bytes)."
        )


def to_bytes(given: np.ndarray | Tensor) -> str:
    """The expression that makes uint8 of float pixels ``x``, by their range."""
    low, high = float(given.min()), float(given.max())
    if -_OVERSHOOT <= low < 0 and high <= _OVERSHOOT:
        return _cast(given, "((x + 1) * 127.5)")
    return _cast(given, "(x * 255)" if high <= 1 else "x")


def _cast(given: np.ndarray | Tensor, pixels: str) -> str:
    rounded = f"{pixels}.round()" if _is_float(given) else pixels
    return f"{rounded}.to(torch.uint8)" if isinstance(given, Tensor) else f"{rounded}.astype(np.uint8)"


def check_mask(given: Any, name: str, *, frames: bool) -> None:
    """Refuses what is no palette mask and no bool planes: paths, lists of planes, floats, grey mattes, label numbers.

    Args:
        frames: whether a video's mask is meant, (T, H, W, 3) or bool (S, T, H, W), not a picture's.
    """
    if isinstance(given, str | Path):
        opener = "VideoReader" if frames else "read_image"
        raise InputError(f"{name} is a path, not a mask: open it with scail2.{opener}({str(given)!r}).")
    if isinstance(given, list | tuple) and not frames:
        raise InputError(
            f"{name} is a list of {len(given)} where one mask is meant: give one palette picture, or a bool array (S, H, W) with "
            "one plane for each character (np.stack of theirs)."
        )
    if isinstance(given, Image.Image) and given.mode in ("1", "L", "LA", "I", "I;16", "F"):
        if frames:
            raise InputError(f"{name} is one picture where a video's mask is meant: give one mask for each frame.")
        raise InputError(
            f"{name} is a grey picture, which does not say which character it shows: give bool, np.asarray({name}) > 127, or "
            "paint the character in palette blue, (0, 0, 255)."
        )
    first = given[0] if isinstance(given, list | tuple) and given else given
    if isinstance(first, Image.Image) and first.mode in ("1", "L", "LA", "I", "I;16", "F"):
        raise InputError(
            f"{name} holds grey pictures, which do not say which character they show: give bool, "
            f"np.stack([np.asarray(x) > 127 for x in {name}])."
        )
    if isinstance(given, np.ndarray | Tensor):
        _check_mask_array(given, name, frames=frames)


def _check_mask_array(given: np.ndarray | Tensor, name: str, *, frames: bool) -> None:
    shape, kind = tuple(given.shape), _dtype(given)
    axes, described = ("T, H, W" if frames else "H, W"), f"{name} is {_described(given)}"
    if 0 in shape:
        raise InputError(f"{described}: it is empty.")
    if kind == "bool":
        _check_planes(shape, described, name, axes)
        return
    flat = len(shape) == (3 if frames else 2) or (len(shape) == (4 if frames else 3) and shape[-1] == 1)
    if _is_float(given):
        raise InputError(f"{described}, in floats: give bool planes, x > 0.5, one for each character, (S, {axes}).")
    if flat:
        peak = int(given.max())
        way = f"{name} > 127"
        if 1 < peak <= 6:
            way = f"np.stack([{name} == k for k in range(1, {peak + 1})])"
        elif peak == 1:
            way = f"{name} > 0"
        raise InputError(
            f"{described}, without colours: which character it shows is said by palette colours (..., 3), or by bool planes: "
            f"{way}."
        )
    if frames and len(shape) == 3:
        raise InputError(f"{described}, one picture where a video's mask is meant: give one mask for each frame.")


def _check_planes(shape: tuple[int, ...], described: str, name: str, axes: str) -> None:
    count = len(axes.split(","))
    if len(shape) not in (count, count + 1):
        raise InputError(f"{described}; bool planes are (S, {axes}), one for each character, or ({axes}).")
    if len(shape) == count + 1 and shape[0] > 6 >= shape[-1]:
        raise InputError(f"{described}: planes come first, (S, {axes}); np.moveaxis({name}, -1, 0) moves them.")


def check_same_shape(mask: tuple[int, int], shown: set[tuple[int, int]], name: str, of: str) -> None:
    """Refuses a mask that cannot lie on what it belongs to; sizes (height, width), a resized mask keeps the aspect.

    Args:
        shown: the sizes that what it belongs to has, stored or shown.
    """
    for height, width in shown:
        # A mask resized to whole pixels is off by up to one pixel on either side.
        if abs(mask[0] * width - mask[1] * height) <= max(height, width, *mask):
            return
    told = " or ".join(sorted(f"{width}x{height}" for height, width in shown))
    raise InputError(
        f"{name} has {mask[1]}x{mask[0]} pixels and {of} {told} (width x height): of another aspect, it cannot lie on it. Give a "
        "mask of its size."
    )


def _is_float(given: np.ndarray | Tensor) -> bool:
    return given.is_floating_point() if isinstance(given, Tensor) else given.dtype.kind == "f"


def _dtype(given: np.ndarray | Tensor) -> str:
    return str(given.dtype).removeprefix("torch.")


def _described(given: Any) -> str:
    """``a float32 tensor (3, 8, 8)``, or the kind of thing it is."""
    if isinstance(given, np.ndarray | Tensor):
        kind = "tensor" if isinstance(given, Tensor) else "array"
        return f"a {_dtype(given)} {kind} {tuple(given.shape)}"
    return type(given).__name__ if not isinstance(given, int | float) else short(given)
