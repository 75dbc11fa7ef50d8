"""Masks that the user brings: palette pictures and videos, grey or alpha mattes, the reference's own transparency.

A palette file has to hold exactly the eight palette colours. Painting programs and lossy codecs soften edges; such pixels
are snapped to the palette and counted in a warning. A colour that no softened edge explains is refused by name.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np

from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS, BindingSlot
from scail2.perception.segmenters.following import Follower, follow_regions
from scail2.perception.segmenters.mask_timing import AlignedMask, MaskFile
from scail2.perception.segmenters.snapping import (
    LOSSLESS_CODECS,
    MATTE_LEVEL,
    PALETTE,
    PALETTE_NAMES,
    PaletteSnapper,
    near_characters,
    near_palette,
    too_dark,
)
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import Prompts
from scail2.video import SizedFrames, VideoReader, read_image
from scail2.video.images import AnimatedPicture, is_film
from scail2.video.kinds import PICTURE_SUFFIXES, identify

LOSSLESS_SUFFIXES = {".png", ".apng", ".bmp", ".tif", ".tiff"}
# Delays of an animation are rounded to milliseconds or hundredths: so far from a whole number of pictures they may be.
_UNEVEN = 0.25
_WINDOW = 16
# Channels of a grey pixel lie within this; a lossy matte may hold a small share of others.
_GREY_SPREAD, _GREY_SLACK = 24, 0.001
# No noise of a codec takes them this far apart; so many pixels of one frame make a colour file, stray ones do not.
_COLOUR_SPREAD, _COLOUR_PIXELS = 96, 4
# The share of a palette's pixels that even lossy coding leaves near its colours.
_IN_PALETTE = 0.98
# The same where coded colours also run into what lies under transparency.
_SMEARED = 0.8


def nearest_cover(array: np.ndarray, height: int, width: int, *, letterbox: bool = False) -> np.ndarray:
    """Labels (T, H, W, …) at another size, by the geometry of cover-resize + centre crop (or letterbox), nearest pixel.

    The bars of a letterbox become label 0. Colours and labels never mix.
    """
    source_h, source_w = array.shape[1:3]
    if (source_h, source_w) == (height, width):
        return array
    scale = (min if letterbox else max)(height / source_h, width / source_w)
    ys = np.floor((np.arange(height) + 0.5 - height / 2) / scale + source_h / 2).astype(int)
    xs = np.floor((np.arange(width) + 0.5 - width / 2) / scale + source_w / 2).astype(int)
    inside = ((ys >= 0) & (ys < source_h))[:, None] & ((xs >= 0) & (xs < source_w))[None]
    picked = array[:, ys.clip(0, source_h - 1)][:, :, xs.clip(0, source_w - 1)]
    return np.where(inside.reshape(1, height, width, *[1] * (array.ndim - 3)), picked, 0).astype(array.dtype)


class PictureFrames:
    """One picture as a clip of one frame: uint8 (1, H, W, 3 or 4)."""

    def __init__(self, picture: np.ndarray):
        self.picture = picture
        self.height, self.width = picture.shape[:2]

    def __len__(self) -> int:
        return 1

    def frames(self, start: int, stop: int) -> np.ndarray:
        return self.picture[None][start:stop]


class _StraightAlpha:
    """A video with transparency as uint8 (T, H, W, 4), where `VideoReader.frames` would lay it over black."""

    def __init__(self, reader: VideoReader):
        self.reader, self.height, self.width = reader, reader.height, reader.width

    def __len__(self) -> int:
        return len(self.reader)

    def frames(self, start: int, stop: int) -> np.ndarray:
        return self.reader.frames_rgba(start, stop)


class Unmerged:
    """An animation in which unchanged pictures were stored once, longer on show: each as often as it was there before."""

    def __init__(self, pictures: AnimatedPicture, indices: np.ndarray):
        self._pictures, self._indices = pictures, indices
        self.height, self.width = pictures.info.height, pictures.info.width

    @classmethod
    def open(cls, path: Path, count: int) -> Self | None:
        """None unless it is an animation whose delays are whole parts of `count` equal ones, and not one each."""
        if identify(path).is_container:
            return None
        pictures = AnimatedPicture(path)
        delays = np.diff([*pictures.ticks, pictures.end_tick]) * (count / pictures.end_tick)
        times = np.rint(delays).astype(int)
        if len(times) == count or times.min() < 1 or times.sum() != count or abs(delays - times).max() > _UNEVEN:
            pictures.close()
            return None
        return cls(pictures, np.repeat(np.arange(len(times)), times))

    def __len__(self) -> int:
        return len(self._indices)

    def frames(self, start: int, stop: int) -> np.ndarray:
        stored, again = np.unique(self._indices[start:stop], return_inverse=True)
        return np.stack(list(self._pictures.read(stored.tolist())))[again]


def open_mask(path: Path, fps: Fraction | None = None, count: int | None = None) -> MaskFile:
    """Opens a mask (picture, animation, video, or folder of pictures) at its own size.

    One of variable rate is held onto `fps`; an animation gets those of its `count` pictures back that were not stored again.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"the mask {path} does not exist.")
    if path.is_dir():
        suffixes = {each.suffix.lower() for each in path.iterdir()} & set(PICTURE_SUFFIXES)
        reader = VideoReader(path, interpolation="nearest")
        return MaskFile(
            path=path,
            frames=_with_alpha(reader),
            lossy=not suffixes <= LOSSLESS_SUFFIXES,
            remarks=tuple(f"{path.name}: {note.message}." for note in reader.source_info.notes if note.fix),
        )
    if not is_film(path):
        lossy = path.suffix.lower() not in LOSSLESS_SUFFIXES
        return MaskFile(path=path, frames=PictureFrames(read_image(path)), lossy=lossy)
    reader, rate, extend = VideoReader(path, interpolation="nearest"), None, None
    lossy = reader.source_info.codec not in LOSSLESS_CODECS
    if count is not None and (unmerged := Unmerged.open(path, count)) is not None:
        reader.close()
        return MaskFile(path=path, frames=unmerged, lossy=lossy)
    if reader.source_info.variable_rate:
        if fps is not None:
            reader.close()
            reader = VideoReader(path, fps=fps, interpolation="nearest")
        rate, extend = reader.fps, reader.extend
    return MaskFile(path=path, frames=_with_alpha(reader), lossy=lossy, rate=rate, extend=extend)


def _with_alpha(reader: VideoReader) -> SizedFrames:
    return _StraightAlpha(reader) if reader.has_alpha else reader


class MaskKind(Enum):
    """What the frames of a mask file say who is where with."""

    PALETTE = auto()
    PAINT = auto()  # the palette's colours on transparency, which may be either background
    GREY = auto()
    ALPHA = auto()


def _coloured(rgb: np.ndarray) -> bool:
    """Whether frames uint8 (T, H, W, 3) hold colours: a few strong ones in a frame, or more weak ones than noise."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    strong = (spread > _COLOUR_SPREAD).sum(axis=(1, 2)).max()
    return bool(strong >= _COLOUR_PIXELS or (spread > _GREY_SPREAD).mean() > _GREY_SLACK)


def _in_palette(rgb: np.ndarray) -> bool:
    """Whether nearly all pixels are near a palette colour."""
    return bool(near_palette(rgb).mean() > _IN_PALETTE)


def _is_paint(frames: np.ndarray, *, lossy: bool) -> bool:
    """Whether what covers in frames uint8 (T, H, W, 4) is nearly all in colours of characters, as no picture cut out is."""
    covering = frames[frames[..., 3] > MATTE_LEVEL]
    share = near_characters(covering[:, :3], lossy=lossy).mean()
    return bool(share > (_SMEARED if lossy else _IN_PALETTE))


def _kind(mask: AlignedMask) -> MaskKind:
    """What a file is, by its first frames that tell: a character may show late, and may be very small."""
    kind, peak, sees_through = MaskKind.GREY, 0, False
    for start in range(0, len(mask), _WINDOW):
        frames = mask.frames(start, min(start + _WINDOW, len(mask)))
        if frames.shape[-1] == 4 and (sees_through or frames[..., 3].min() < 255):
            if (frames[..., 3] > MATTE_LEVEL).any():
                return MaskKind.PAINT if _is_paint(frames, lossy=mask.lossy) else MaskKind.ALPHA
            sees_through = True
            continue
        peak = max(peak, int(frames[..., :3].max()))
        if _coloured(frames):
            kind = MaskKind.PALETTE
        # Pictures of a cut-out may fill whole frames before their transparency begins.
        if kind is MaskKind.PALETTE and (frames.shape[-1] == 3 or _in_palette(frames[..., :3])):
            break
    if sees_through:
        return MaskKind.ALPHA
    if kind is MaskKind.GREY and 0 < peak <= MATTE_LEVEL:
        raise InputError(too_dark(f"the mask {mask.path}", peak))
    return kind


def _painted(mask: AlignedMask, kind: MaskKind, start: int, stop: int) -> np.ndarray:
    """A palette's frames uint8 (T, H, W, 3), black where nothing covers."""
    frames = mask.frames(start, stop)
    return frames[..., :3] * (frames[..., 3:] > MATTE_LEVEL) if kind is MaskKind.PAINT else frames[..., :3]


def _matte_level(mask: AlignedMask, kind: MaskKind, start: int, stop: int) -> np.ndarray:
    """A matte's coverage uint8 (T, H, W): its alpha channel, or its grey. Raises `InputError` for colours."""
    frames = mask.frames(start, stop)
    if kind in (MaskKind.ALPHA, MaskKind.PAINT):
        return frames[..., 3]
    if kind is MaskKind.PALETTE or _coloured(frames):
        raise InputError(
            f"{mask.path} is not a grey or alpha matte (frames {start} to {stop - 1}): give one palette file for all "
            "characters, or one matte for each."
        )
    return frames[..., 1]


class GivenMasks:
    """`VideoSegmenter` over mask files: one palette file, or one matte for everybody, or one matte per character.

    Args:
        paths: the files (pictures, videos, folders of pictures).
        original: (height, width) of the file that was masked, where the clip was resized from it; masks may have this
            size or the clip's own.
        letterbox: whether the clip was fitted with bars instead of being cropped.
        fps: the clip's rate; None where the clip itself says it (as `VideoReader.fps`) or has none.
        slots: colours of the characters 1, 2, … of a palette file; None for a number that nobody in it has.
    """

    name = "given"

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        original: tuple[int, int] | None = None,
        letterbox: bool = False,
        fps: Fraction | None = None,
        slots: Sequence[BindingSlot | None] = BINDING_SLOTS,
    ):
        if not paths:
            raise InputError("no mask file was given.")
        self.paths = [Path(path) for path in paths]
        self.original, self.letterbox, self.fps = original, letterbox, fps
        self.slots = tuple(slots)

    def segment(
        self,
        frames: SizedFrames,
        prompts: Prompts | None = None,
        *,
        directory: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TrackedMasks:
        """Reads the files against the clip. Raises `InputError` for another length or size, and for unknown colours."""
        if prompts is not None and (prompts.text or prompts.placed):
            raise InputError(
                "mask files were given, so text, points and boxes have no use: leave one or the other out."
            )
        fps = self.fps if self.fps is not None else getattr(frames, "fps", None)
        aligned = [AlignedMask(open_mask(path, fps, len(frames)), frames, fps, self.original) for path in self.paths]
        recorder = TrackRecorder(directory, height=frames.height, width=frames.width)
        kinds = [_kind(mask) for mask in aligned]
        if kinds in ([MaskKind.PALETTE], [MaskKind.PAINT]):
            return self._palette(aligned[0], kinds[0], recorder, progress)
        count = prompts.characters if prompts is not None else None
        mattes = list(zip(aligned, kinds, strict=True))
        if count is not None and len(mattes) == 1 and count > 1:
            return self._divided(*mattes[0], count, recorder, progress)
        return self._mattes(mattes, recorder, progress)

    def _resized(self, labels: np.ndarray, recorder: TrackRecorder) -> np.ndarray:
        return nearest_cover(labels, recorder.height, recorder.width, letterbox=self.letterbox)

    def _palette(self, mask: AlignedMask, kind: MaskKind, recorder: TrackRecorder, progress) -> TrackedMasks:
        total = len(mask)
        snapper = PaletteSnapper(lossy=mask.lossy, where=f"the mask {mask.path}")
        windows = [(start, min(start + _WINDOW, total)) for start in range(0, total, _WINDOW)]
        for start, stop in windows:
            snapper.learn(_painted(mask, kind, start, stop))
        counts, white = np.zeros(len(PALETTE), np.int64), np.zeros(total, bool)
        # Rows of the palette: black, white, then the slots in their order.
        numbers = np.zeros(len(PALETTE), np.uint8)
        for number, slot in enumerate(self.slots, start=1):
            if slot is not None:
                numbers[2 + BINDING_SLOTS.index(slot)] = number
        for start, stop in windows:
            rows = snapper.snap(_painted(mask, kind, start, stop), start)
            counts += np.bincount(rows.ravel(), minlength=len(PALETTE))
            white[start:stop] = (rows == 1).sum(axis=(1, 2)) > (rows == 0).sum(axis=(1, 2))
            recorder.add(self._resized(numbers[rows], recorder))
            if progress:
                progress(stop, total)
        if not counts[2:].any():
            raise InputError(
                f"the mask {mask.path} shows no character: nothing is painted in {', '.join(PALETTE_NAMES[2:])}."
            )
        is_white = bool(counts[1] > counts[0])
        return recorder.finish(
            "given palette",
            slots=self.slots,
            names=["" if slot is None else slot.colour for slot in self.slots],
            background=PALETTE_NAMES[is_white] if kind is MaskKind.PALETTE else None,
            warnings=[*mask.warnings, *_strays(mask.path, white, is_white), *snapper.warnings(mask.path.name)],
        )

    def _divided(
        self, mask: AlignedMask, kind: MaskKind, count: int, recorder: TrackRecorder, progress
    ) -> TrackedMasks:
        """One matte for everybody, divided into `count` characters by connected regions followed through the clip."""
        follower, total = Follower(count), len(mask)
        for start in range(0, total, _WINDOW):
            stop = min(start + _WINDOW, total)
            inside = self._resized(_matte_level(mask, kind, start, stop), recorder) > MATTE_LEVEL
            pictures = mask.clip.frames(start, stop)[..., :3]
            labels = [follow_regions(follower, rgb, here) for rgb, here in zip(pictures, inside, strict=True)]
            recorder.add(np.stack(labels))
            if progress:
                progress(stop, total)
        warnings = list(mask.warnings)
        if follower.count < count:
            warnings.append(f"{mask.path.name} shows {follower.count} of the {count} characters that were asked for.")
        return recorder.finish(
            "given matte",
            names=[f"{mask.path.stem} {number + 1}" for number in range(follower.count)],
            warnings=warnings,
        )

    def _mattes(
        self, mattes: Sequence[tuple[AlignedMask, MaskKind]], recorder: TrackRecorder, progress
    ) -> TrackedMasks:
        masks = [mask for mask, _ in mattes]
        total = len(masks[0])
        for start in range(0, total, _WINDOW):
            stop = min(start + _WINDOW, total)
            shape = (stop - start, recorder.height, recorder.width)
            labels, best = np.zeros(shape, np.uint8), np.full(shape, MATTE_LEVEL, np.uint8)
            for number, (mask, kind) in enumerate(mattes, start=1):
                level = self._resized(_matte_level(mask, kind, start, stop), recorder)
                labels[level > best] = number
                best = np.maximum(best, level)
            recorder.add(labels)
            if progress:
                progress(stop, total)
        warnings = [sentence for mask in masks for sentence in mask.warnings]
        return recorder.finish("given matte", names=[mask.path.stem for mask in masks], warnings=warnings)


def _strays(path: Path, white: np.ndarray, is_white: bool) -> list[str]:
    """A warning where some frames, bool (T,) white, were painted on another background than most of the clip."""
    frames = np.flatnonzero(white != is_white).tolist()
    if not frames:
        return []
    told = ", ".join(map(str, frames[:4])) + (f" and {len(frames) - 4} more" if len(frames) > 4 else "")
    usual, other = PALETTE_NAMES[is_white], PALETTE_NAMES[not is_white]
    return [f"{path.name} has a {other} background in frames {told} and a {usual} one elsewhere: {usual} is meant."]


def from_alpha(picture: np.ndarray, *, name: str = "the reference") -> TrackedMasks | None:
    """The character of a picture uint8 (H, W, 3 or 4) that comes with transparency; None where alpha says nothing."""
    if picture.shape[-1] != 4 or picture[..., 3].min() > MATTE_LEVEL:
        return None
    labels = (picture[..., 3] > MATTE_LEVEL).astype(np.uint8)[None]
    if not labels.any():
        raise InputError(f"{name} is wholly transparent: there is no character in it.")
    recorder = TrackRecorder(None, height=labels.shape[1], width=labels.shape[2])
    recorder.add(labels)
    return recorder.finish("alpha", names=["alpha"])
