"""What a video is to the rest of the package: frames by number, never the whole film in memory."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from scail2.errors import InputError

# A frame larger than this is refused before a byte is allocated for it: 8192 × 8192, or 16,384 × 4,096.
MAX_PIXELS = 8192 * 8192
# Below this a frame holds nothing that a model could use; every model grid is coarser than 8 pixels.
MIN_SIDE = 8
# A broken header can announce years of video; more frames than this (17 hours at 16 fps) are refused.
MAX_FRAMES = 1_000_000


@runtime_checkable
class FrameSource(Protocol):
    """Frames by number. Reading a window costs memory for that window only."""

    def __len__(self) -> int: ...

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start`` … ``stop - 1`` as uint8 RGB ``(stop - start, H, W, 3)``; needs 0 ≤ start ≤ stop ≤ len."""
        ...


@runtime_checkable
class SizedFrames(FrameSource, Protocol):
    """Frames by number that say how large they are, in pixels."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...


class ArrayFrames:
    """A :class:`FrameSource` over an array that is already in memory.

    Args:
        array: uint8 ``(T, H, W, 3)`` RGB, T ≥ 1; windows are views, not copies.

    Raises:
        InputError: another shape or dtype, or no frames.
    """

    def __init__(self, array: np.ndarray):
        array = np.asarray(array)
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise InputError(
                f"frames must be a uint8 array (T, H, W, 3), got {array.dtype} {array.shape}; convert it with to_uint8()"
            )
        if len(array) == 0:
            raise InputError("the video has no frames: give an array with at least one")
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @property
    def height(self) -> int:
        return self.array.shape[1]

    @property
    def width(self) -> int:
        return self.array.shape[2]

    def frames(self, start: int, stop: int) -> np.ndarray:
        check_window(start, stop, len(self))
        return self.array[start:stop]


class FirstFrames:
    """The first ``count`` frames of a `VideoReader`, as a :class:`FrameSource`."""

    def __init__(self, source: Any, count: int):
        self.source, self._count = source, count
        self.height, self.width, self.source_info = source.height, source.width, source.source_info
        self.source_indices = source.source_indices[:count]

    def __len__(self) -> int:
        return self._count

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop): uint8 (T, H, W, 3)."""
        if stop > self._count:
            raise IndexError(f"frames {start}:{stop} asked of the first {self._count}")
        return self.source.frames(start, stop)

    def close(self) -> None:
        """Releases the file."""
        self.source.close()


def first_frames(source: Any, count: int | None) -> Any:
    """A `VideoReader` as it is, or its first ``count`` frames where it has more."""
    return source if count is None or count >= len(source) else FirstFrames(source, count)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """One thing about a file that its user should know: a code for programs, a sentence without its name, and what to do
    about it (empty where nothing needs doing)."""

    code: str
    message: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a file holds, as shown to a viewer (turned upright, square pixels), before any resampling or resizing."""

    path: Path
    container: str
    codec: str
    width: int
    height: int
    frames: int  # pictures stored, after edit lists
    fps: Fraction  # the constant rate, or the nominal one when `variable_rate`
    variable_rate: bool
    duration: Fraction  # seconds from the first picture to the end of the last
    start: Fraction  # seconds: the file's own clock at the first picture; sound is cut relative to it
    rotation: int  # degrees clockwise already applied to reach `width` × `height`
    pixel_format: str
    bit_depth: int
    has_alpha: bool
    audio_codec: str | None
    high_dynamic_range: bool
    stored_size: tuple[int, int]  # (height, width) upright, before pixels that are not square were stretched
    notes: tuple[Note, ...] = ()  # what was passed over, converted or left unconverted

    @property
    def has_audio(self) -> bool:
        return self.audio_codec is not None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; fractions as ``"num/den"`` strings."""
        return {
            key: str(value) if isinstance(value, (Fraction, Path)) else value for key, value in asdict(self).items()
        }


def check_window(start: int, stop: int, length: int) -> None:
    """Raises IndexError unless 0 ≤ start ≤ stop ≤ length: a wrong window is a programming error, never clipped."""
    if not 0 <= start <= stop <= length:
        raise IndexError(f"frames {start}:{stop} asked of a video of {length} frames")


def check_frame_size(name: object, width: int, height: int) -> None:
    """Raises InputError for sizes that cannot be real; ``name`` begins the sentence."""
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width}×{height} pixels is more than the limit of {MAX_PIXELS:,} per frame; scale it down first"
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name}: {width}×{height} pixels is too small; at least {MIN_SIDE} are needed on each side")
