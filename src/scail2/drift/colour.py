"""CIE L*a*b* statistics and Reinhard's colour transfer, on float frames.

L*a*b* is CIE 1976 from sRGB (IEC 61966-2-1) under D65: an even step in it looks about even, and lightness is apart from
colour, so a mean and a deviation per axis describe a cast and a contrast. The transfer is that of Reinhard et al.,
"Color Transfer between Images" (IEEE CG&A 2001): subtract one mean, scale by the ratio of deviations, add the other mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Frames = "np.ndarray | torch.Tensor"

# Linear sRGB -> XYZ, rows normalised by the D65 white point, so that white maps to (1, 1, 1).
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _RGB_TO_XYZ.sum(axis=1)
_TO_XYZ = (_RGB_TO_XYZ / _WHITE[:, None]).T.copy()
_FROM_XYZ = np.linalg.inv(_TO_XYZ)
_EPSILON, _KAPPA = 216 / 24389, 24389 / 27  # where CIE's cube root meets its straight part
_LUMA = np.array([[0.2126], [0.7152], [0.0722]])
# Below this a region has no colour of its own worth speaking of, and a ratio of deviations no meaning.
_MIN_PIXELS = 64
_MIN_DEVIATION = 0.5
_MAX_GAIN = 2.0
# A frame is sampled on a grid of at most this many points a side: means and deviations do not need every pixel.
_SAMPLED_SIDE = 384


def as_float_frames(frames: "np.ndarray | torch.Tensor") -> Iterator[np.ndarray]:
    """Each frame as float32 ``(H, W, 3)`` in [0, 1], from float ``(T, 3, H, W)`` in [-1, 1] or uint8 ``(T, H, W, 3)``."""
    if not isinstance(frames, np.ndarray):
        frames = (
            frames.detach().cpu().numpy() if str(frames.dtype) != "torch.bfloat16" else frames.float().cpu().numpy()
        )
    if frames.ndim != 4:
        raise ValueError(f"frames must have four dimensions, got {frames.shape}")
    for frame in frames:
        if frame.dtype == np.uint8:
            yield frame.astype(np.float32) / 255.0
        else:
            yield np.clip(frame.transpose(1, 2, 0).astype(np.float32) * 0.5 + 0.5, 0.0, 1.0)


def mix(values: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``values @ matrix`` for a last axis of 3, written out: a BLAS may round differently with another thread count."""
    matrix = matrix.astype(values.dtype)
    return values[..., 0:1] * matrix[0] + values[..., 1:2] * matrix[1] + values[..., 2:3] * matrix[2]


def luma(rgb: np.ndarray) -> np.ndarray:
    """BT.709 luma ``(...)`` of ``(..., 3)`` in [0, 1], in grey levels 0 … 255."""
    return mix(rgb, _LUMA)[..., 0] * 255


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB ``(..., 3)`` in [0, 1] to L* (0 … 100), a*, b* (about ±100), same floating dtype."""
    return np.moveaxis(lab_planes(rgb), 0, -1).copy()


def lab_planes(rgb: np.ndarray) -> np.ndarray:
    """As :func:`rgb_to_lab`, the three axes one after the other, ``(3, ...)``: arithmetic on long rows is faster."""
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    linear = np.where(planes <= 0.04045, planes / 12.92, ((np.maximum(planes, 0.04045) + 0.055) / 1.055) ** 2.4)
    to_xyz = _TO_XYZ.astype(rgb.dtype)
    xyz = np.stack([linear[0] * red + linear[1] * green + linear[2] * blue for red, green, blue in to_xyz.T])
    f = np.where(xyz > _EPSILON, np.cbrt(xyz), (_KAPPA * xyz + 16) / 116)
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]).astype(rgb.dtype, copy=False)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """The inverse of :func:`rgb_to_lab`; colours outside sRGB are clipped to [0, 1]."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    cube = f**3
    linear = mix(np.where(cube > _EPSILON, cube, (116 * f - 16) / _KAPPA), _FROM_XYZ)
    linear = np.clip(linear, 0.0, 1.0)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    return rgb.astype(lab.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class LabStatistics:
    """Mean and standard deviation of L*, a*, b* over the pixels of a region and all frames."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, list[float]]:
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LabStatistics":
        return cls(tuple(values["mean"]), tuple(values["std"]))

    def distance(self, other: "LabStatistics") -> float:
        """CIE 1976 colour difference of the two means; 2.3 is just noticeable side by side."""
        return float(np.linalg.norm(np.subtract(self.mean, other.mean)))

    def contrast_change(self, other: "LabStatistics") -> float:
        """log2 of the ratio of the lightness deviations: 0 equal, 1 twice the contrast of ``other``."""
        return float(np.log2(max(self.std[0], _MIN_DEVIATION) / max(other.std[0], _MIN_DEVIATION)))


@dataclass(frozen=True, slots=True)
class ColourStatistics:
    """Of whole frames, and of the character and its surroundings where a mask says which is which."""

    whole: LabStatistics
    inside: LabStatistics | None = None
    outside: LabStatistics | None = None

    def to_json(self) -> dict[str, Any]:
        parts = {"whole": self.whole, "inside": self.inside, "outside": self.outside}
        return {name: None if part is None else part.to_json() for name, part in parts.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ColourStatistics":
        inside, outside = (
            None if values.get(name) is None else LabStatistics.from_json(values[name])
            for name in ("inside", "outside")
        )
        return cls(whole=LabStatistics.from_json(values["whole"]), inside=inside, outside=outside)


class _Sums:
    """Running moments of one region, so that a segment is never held in L*a*b* as a whole."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, np.zeros(3), np.zeros(3)

    def add(self, pixels: np.ndarray) -> None:
        """Adds pixels ``(3, N)``."""
        wide = pixels.astype(np.float64)
        self.count += wide.shape[1]
        self.total += wide.sum(axis=1)
        self.squares += (wide * wide).sum(axis=1)

    def __add__(self, other: "_Sums") -> "_Sums":
        both = _Sums()
        both.count = self.count + other.count
        both.total, both.squares = self.total + other.total, self.squares + other.squares
        return both

    def statistics(self) -> LabStatistics | None:
        if self.count < _MIN_PIXELS:
            return None
        mean = self.total / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0.0))
        return LabStatistics(tuple(mean.tolist()), tuple(deviation.tolist()))


def colour_statistics(frames: "np.ndarray | torch.Tensor", mask: np.ndarray | None = None) -> ColourStatistics:
    """L*a*b* mean and deviation of frames, float ``(T, 3, H, W)`` in [-1, 1] or uint8 ``(T, H, W, 3)``.

    Args:
        mask: bool ``(T, H, W)``, True where a character is; None leaves out ``inside`` and ``outside``, as does a region
            with fewer than 64 sampled pixels in all frames together.
    """
    check_mask(mask, frames)
    inside, outside = _Sums(), _Sums()
    for number, frame in enumerate(as_float_frames(frames)):
        step = max(1, -(-max(frame.shape[:2]) // _SAMPLED_SIDE))
        lab = lab_planes(frame[::step, ::step]).reshape(3, -1)
        if mask is None:
            outside.add(lab)
        else:
            here = mask[number, ::step, ::step].reshape(-1)
            inside.add(lab[:, here])
            outside.add(lab[:, ~here])
    statistics = (inside + outside).statistics()
    if statistics is None:
        raise ValueError("colour statistics need at least one frame of 64 pixels")
    if mask is None:
        return ColourStatistics(statistics)
    return ColourStatistics(statistics, inside.statistics(), outside.statistics())


def check_mask(mask: np.ndarray | None, frames) -> None:
    """Raises ValueError unless the mask is None or bool ``(T, H, W)`` like the frames."""
    if mask is None:
        return
    size = frames.shape[1:3] if str(frames.dtype) == "uint8" else frames.shape[2:]
    if np.asarray(mask).dtype != np.bool_ or tuple(mask.shape) != (len(frames), *size):
        raise ValueError(f"the mask must be bool {(len(frames), *size)}, got {mask.dtype} {tuple(mask.shape)}")


@dataclass(frozen=True, slots=True)
class ColourTransfer:
    """``gain · (lab - source) + target`` per axis."""

    source: tuple[float, float, float]
    target: tuple[float, float, float]
    gain: tuple[float, float, float]

    @classmethod
    def between(cls, source: LabStatistics, target: LabStatistics) -> "ColourTransfer":
        """Gives ``source`` the mean and deviation of ``target``; gains stay within ½ … 2, a flat axis keeps gain 1."""

        def gain(have: float, want: float) -> float:
            ratio = 1.0 if min(have, want) < _MIN_DEVIATION else want / have
            return float(np.clip(ratio, 1 / _MAX_GAIN, _MAX_GAIN))

        (have_l, have_a, have_b), (want_l, want_a, want_b) = source.std, target.std
        return cls(source.mean, target.mean, (gain(have_l, want_l), gain(have_a, want_a), gain(have_b, want_b)))

    def apply(self, lab: np.ndarray) -> np.ndarray:
        dtype = lab.dtype
        return (lab - np.array(self.source, dtype)) * np.array(self.gain, dtype) + np.array(self.target, dtype)
