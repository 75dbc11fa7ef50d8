"""Which frame of a mask file belongs to which frame of the clip it masks.

A mask of variable rate follows the clip by time, and so does the driving mask of a `scail2 masks` folder over a clip of
variable rate. Any other has one frame for each picture stored in the clip's file, or else one for each frame of the clip.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.files.documents import decode, load_json
from scail2.video import SizedFrames
from scail2.video.rates import hold_constant
from scail2.video.resize import resize_stretch

# Pixels by which programs disagree on the stretched side of a film whose pixels are not square (some make it even).
_ROUNDING = 2


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """Frames of a mask file at its own size; `lossy`: they went through a lossy codec.

    `remarks` are what reading it noted. `rate` is that of frames which were taken from a film of variable rate, else None;
    such a film goes on by `extend`.
    """

    path: Path
    frames: SizedFrames
    lossy: bool
    rate: Fraction | None = None
    extend: Callable[[int], None] | None = None
    remarks: tuple[str, ...] = ()


class AlignedMask:
    """Fits mask frames to the clip's. Raises `InputError` for another length or size.

    Args:
        file: the mask.
        clip: what it masks.
        fps: the clip's rate, None where it has none.
        original: (height, width) of the file the clip was resized from.

    Attributes:
        warnings: sentences for the user.
    """

    def __init__(self, file: MaskFile, clip: SizedFrames, fps: Fraction | None, original: tuple[int, int] | None):
        self.source, self.path, self.lossy, self.clip = file.frames, file.path, file.lossy, clip
        self.warnings: tuple[str, ...] = ()
        self._info = getattr(clip, "source_info", None)
        rate, self._extend = file.rate, file.extend
        if rate is None and self._info is not None and self._info.variable_rate:
            rate = _stored_rate(file.path)
        self.indices = self._by_picture() if rate is None else self._by_time(rate, fps)
        self._stretched: tuple[int, int] | None = None
        self.warnings += file.remarks
        self._check_size(original)

    def _check_size(self, original: tuple[int, int] | None) -> None:
        """Accepts the clip's size, its file's, and where that has pixels which are not square the size they are stored in;
        tools round a stretched side differently."""
        source, clip, info = self.source, self.clip, self._info
        sizes = {(clip.height, clip.width), original or (clip.height, clip.width)}
        size = (source.height, source.width)
        if info is not None and info.stored_size != (info.height, info.width):
            shown = (info.height, info.width)
            off = [abs(here - wanted) for here, wanted in zip(size, shown, strict=True)]
            limit = [_ROUNDING if s != w else 0 for s, w in zip(info.stored_size, shown, strict=True)]
            rounded = all(o <= most for o, most in zip(off, limit, strict=True))
            if size not in sizes and (size == info.stored_size or rounded):
                self._stretched = size = shown
            sizes.add(info.stored_size)
        if size not in {*sizes, self._stretched}:
            told = " or ".join(f"{w}x{h}" for h, w in sorted(sizes))
            raise InputError(
                f"the mask {self.path} is {source.width}x{source.height} pixels but the picture it masks is {told}: "
                "export the mask at the same size."
            )

    def __len__(self) -> int:
        return len(self.clip)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Mask frames of the clip's frames [start, stop): uint8 (T, H, W, 3 or 4)."""
        wanted = self.indices[start:stop]
        read = self.source.frames(int(wanted.min()), int(wanted.max()) + 1)
        chosen = read[wanted - wanted.min()]
        if self._stretched is None:
            return chosen
        return resize_stretch(chosen, *self._stretched, interpolation="nearest")

    def _by_picture(self) -> np.ndarray:
        """One mask frame for each stored picture, whatever rate these are held onto; else one for each frame."""
        given, wanted, info = len(self.source), len(self.clip), self._info
        shown, frames = getattr(self.clip, "source_indices", None), np.arange(wanted)
        if shown is not None and info is not None and given == info.frames:
            if given == wanted and not np.array_equal(shown, frames):
                self.warnings = (
                    f"{info.path.name} has a variable frame rate: the {given} frames of the mask {self.path.name} were "
                    "taken for its stored pictures, one each; if they were made at a constant rate, convert the video "
                    "to that rate first.",
                )
            return np.asarray(shown)
        if given != wanted:
            if (self.path / "tracks.json").is_file():
                raise InputError(f"{self.path} is a folder that `scail2 masks` made: give it as --masks {self.path}.")
            raise InputError(
                f"the mask {self.path} has {given} frames but the clip has {wanted}: "
                "a mask needs exactly one frame for each frame of what it masks."
            )
        return frames

    def _by_time(self, rate: Fraction, fps: Fraction | None) -> np.ndarray:
        """The mask frame on show at the time of each frame of the clip, which may be the beginning of its file."""
        wanted, info, fps = len(self.clip), self._info, fps or rate
        shown = hold_constant(len(self.source), rate, fps)
        # How long the last picture is on show is often not stored: two pictures more or less are no other length.
        whole, slack = (round(info.duration * fps), math.ceil(2 * fps / info.fps)) if info else (wanted, 0)
        if len(shown) != wanted and (abs(len(shown) - whole) > slack or len(shown) < wanted - slack):
            raise InputError(
                f"the mask {self.path} lasts {float(len(shown) / fps):.2f} s but the clip {float(whole / fps):.2f} s: "
                "a mask that follows the clip by time has to last as long."
            )
        if len(shown) < wanted and rate == fps and self._extend is not None:
            self._extend(wanted)
            return np.arange(wanted)
        return shown[np.minimum(np.arange(wanted), len(shown) - 1)]


def _stored_rate(path: Path) -> Fraction | None:
    """The rate of the driving mask of a `scail2 masks` folder, None for other files."""
    described = path.parent / "tracks.json"
    if path.name not in ("driving_mask.mkv", "driving_mask") or not described.is_file():
        return None
    try:
        return decode(load_json(described, dict[str, Any]).get("fps"), Fraction, described, "fps")
    except (OSError, InputError):
        return None
