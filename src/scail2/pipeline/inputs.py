"""What users hand to the pipeline, made into tensors: pictures, masks and videos of any size, read window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS, BindingSlot, check_polarity, paint_mask, slots_shown
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.perception.segmenters.snapping import LOSSLESS_CODECS, SnappedFrames
from scail2.pipeline.mistaken import check_floats, check_mask, check_same_shape, refuse_picture, refuse_video
from scail2.video.convert import to_float, to_uint8
from scail2.video.images import image_pixels
from scail2.video.resize import resize_cover, resize_stretch
from scail2.video.source import ArrayFrames, FrameSource, SizedFrames

MAX_CHARACTERS = len(BINDING_SLOTS)
# Frames of the driving mask looked at to judge it: enough for every scene, few enough to read at once.
_JUDGED_FRAMES = 64


def read_picture(picture: Any, name: str) -> np.ndarray:
    """A picture as uint8 RGB (H, W, 3), with the pixels that `scail2.video.read_image` gives its file.

    Args:
        picture: a PIL image (turned upright and converted to sRGB as a file is), a uint8 or uint16 array or tensor (H, W),
            (H, W, 3) or opaque (H, W, 4), or a float tensor (3, H, W) in [-1, 1]. Transparency must be resolved first:
            what lies behind it is for the caller to say.
    """
    given = picture
    if isinstance(picture, Image.Image):
        picture = image_pixels(picture, name=name)
    if isinstance(picture, Tensor) and picture.dtype in (torch.uint8, torch.uint16):
        picture = picture.cpu().numpy()
    if isinstance(picture, np.ndarray) and (pixels := _eight_bits(picture)) is not None:
        if pixels.shape[-1] == 4 and pixels[..., 3].min() < 255:
            raise InputError(f"{name} has transparent parts: put it on a background first, then pass it as RGB.")
        return np.ascontiguousarray(pixels[..., :3])
    if isinstance(picture, Tensor) and picture.is_floating_point() and picture.ndim == 3 and picture.shape[0] == 3:
        check_floats(picture, name)
        return to_uint8(picture[None])[0]
    refuse_picture(given, name)


def _eight_bits(picture: np.ndarray) -> np.ndarray | None:
    """A uint8 or uint16 picture as uint8 (H, W, 3 or 4), 16 bits scaled as in files; None if it is no picture."""
    if picture.dtype not in (np.uint8, np.uint16) or picture.ndim not in (2, 3):
        return None
    if picture.ndim == 2 or picture.shape[2] == 1:
        picture = np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
    if picture.shape[2] not in (3, 4) or not picture.size:
        return None
    return picture if picture.dtype == np.uint8 else np.rint(picture / 257).astype(np.uint8)


def picture_tensor(picture: Any, name: str, size: tuple[int, int]) -> Tensor:
    """A picture at ``size`` (height, width), covering it and cropped to its centre: (1, 3, H, W) float in [-1, 1]."""
    return to_float(resize_cover(read_picture(picture, name), *size)[None])


def mask_tensor(mask: Any, name: str, size: tuple[int, int], mode: AnimationMode, *, of: Any = None) -> Tensor:
    """A reference mask at ``size``: (1, H, W, 3) uint8; resized with nearest neighbours, so no new colours appear.

    ``mask`` is a picture in the palette, or bool (S, H, W), one plane per character in slot order (blue first), which
    is painted on the background its mode asks for. One character's plane may be given as (H, W). ``of`` is the picture it
    belongs to, whose aspect it must have.
    """
    if mask is None:
        raise InputError(
            f"{name} is missing: the model needs to see which pixels are the character; "
            "make one with `scail2 masks`, or paint the character blue in a copy of the picture."
        )
    check_mask(mask, name, frames=False)
    if (planes := _character_planes(mask, 3)) is not None:
        painted = paint_mask(planes, _slots(planes, name), MODE_TRAITS[mode].reference_background)
    else:
        painted = SnappedFrames(ArrayFrames(read_picture(mask, name)[None]), name, lossy=True).frames(0, 1)[0]
    if of is not None:
        check_same_shape(painted.shape[:2], {read_picture(of, "the picture").shape[:2]}, name, "its picture")
    resized = resize_cover(painted, *size, interpolation="nearest")
    return torch.from_numpy(np.array(resized)[None])


def _character_planes(mask: Any, ndim: int) -> np.ndarray | None:
    """A bool mask with its character axis in front, ``None`` for masks of other kinds."""
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.cpu().numpy()
    if not (isinstance(mask, np.ndarray) and mask.dtype == bool):
        return None
    return mask[None] if mask.ndim == ndim - 1 else mask


def _slots(characters: np.ndarray, name: str) -> tuple:
    """Binding slots for the character planes of a bool mask."""
    if len(characters) > MAX_CHARACTERS:
        raise InputError(
            f"{name} shows {len(characters)} characters; the model binds at most {MAX_CHARACTERS}: "
            "merge far-apart characters into one plane, or animate them in several passes."
        )
    return BINDING_SLOTS[: len(characters)]


class _PaintedMask:
    """Bool character planes (S, T, H, W) as a mask video, painted only where it is read."""

    def __init__(self, characters: np.ndarray, mode: AnimationMode) -> None:
        self.characters, self.background = characters, MODE_TRAITS[mode].driving_background
        self.slots = _slots(characters, "the driving mask")

    def __len__(self) -> int:
        return self.characters.shape[1]

    def frames(self, start: int, stop: int) -> np.ndarray:
        return paint_mask(self.characters[:, start:stop], self.slots, self.background)


@dataclass(frozen=True, slots=True)
class Footage:
    """A video at the run's size, of which only one window is held at a time.

    Attributes:
        source: where frames come from, of any size.
        size: (height, width) frames are read at, covering it and cropped to its centre.
        interpolation: ``"bicubic"`` for pictures, ``"nearest"`` for masks.
    """

    source: FrameSource
    size: tuple[int, int]
    interpolation: str

    def __len__(self) -> int:
        return len(self.source)

    def window(self, start: int, stop: int, padded: int = 0) -> np.ndarray:
        """Frames [start, stop) as uint8 (T, H, W, 3), the last one repeated up to ``padded`` frames."""
        frames = resize_cover(self.source.frames(start, stop), *self.size, interpolation=self.interpolation)
        missing = padded - len(frames)
        return frames if missing <= 0 else np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])


def _source(video: Any, name: str) -> FrameSource:
    given = video
    if (
        isinstance(video, Tensor)
        and video.is_floating_point()
        and video.ndim == 4
        and video.shape[1] == 3
        and len(video)
    ):
        check_floats(video, name)
        video = to_uint8(video)
    elif isinstance(video, Tensor):
        video = video.cpu().numpy()
    elif isinstance(video, list | tuple) and video:
        video = _stacked([read_picture(picture, f"frame {i} of {name}") for i, picture in enumerate(video)], name)
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype not in (np.uint8, np.uint16) or not video.size:
            refuse_video(given, name)
        return ArrayFrames(np.rint(video / 257).astype(np.uint8) if video.dtype == np.uint16 else video)
    if not isinstance(video, FrameSource):
        refuse_video(given, name)
    if len(video) == 0:
        raise InputError(f"{name} has no frames.")
    return video


def _stacked(frames: list[np.ndarray], name: str) -> np.ndarray:
    """Pictures uint8 (H, W, 3) as one video (T, H, W, 3)."""
    for number, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in (frames[0], frame))
            raise InputError(f"frames 0 and {number} of {name} are of different sizes, {sizes}: a video has one.")
    return np.stack(frames)


def _check_aspect(mask: tuple[int, int], film: FrameSource) -> None:
    """Refuses a mask of another aspect than the video it belongs to, as that is read, shown or stored."""
    if not isinstance(film, SizedFrames):
        return
    sizes = {(film.height, film.width)}
    if (info := getattr(film, "source_info", None)) is not None:
        sizes |= {(info.height, info.width), tuple(info.stored_size)}
    check_same_shape(mask, sizes, "driving_mask", "driving_video")


def driving_footage(video: Any, height: int | None, width: int | None) -> Footage:
    """The driving video as footage; a height or width that is not given is the video's own.

    ``video`` is a uint8 array or tensor (T, H, W, 3), a float tensor (T, 3, H, W) in [-1, 1], a list of pictures or any
    frame source.
    """
    if video is None:
        raise InputError("driving_video is missing: give a uint8 array (T, H, W, 3) or a frame source.")
    source = _source(video, "driving_video")
    if height is None or width is None:
        own_height, own_width = source.frames(0, 1).shape[1:3]
        height, width = own_height if height is None else height, own_width if width is None else width
    return Footage(source, (height, width), "bicubic")


class _Squared:
    """A mask in the pixels of a film whose pixels are not square, stretched as the film is."""

    def __init__(self, source: FrameSource, size: tuple[int, int]) -> None:
        self.source, self.size = source, size

    def __len__(self) -> int:
        return len(self.source)

    def frames(self, start: int, stop: int) -> np.ndarray:
        return resize_stretch(self.source.frames(start, stop), *self.size, interpolation="nearest")


def _as_the_film(mask: FrameSource, film: Any) -> FrameSource:
    """The mask, stretched where it has the size in which ``film`` (any driving video) stores pixels that are not square."""
    info = getattr(film, "source_info", None)
    if info is None or info.stored_size == (info.height, info.width):
        return mask
    stored = mask.frames(0, 1).shape[1:3] == tuple(info.stored_size)
    return _Squared(mask, (info.height, info.width)) if stored else mask


def driving_mask_footage(
    mask: Any, size: tuple[int, int], num_frames: int, mode: AnimationMode, film: FrameSource | None = None
) -> Footage:
    """The driving mask as footage at the run's size; as many frames as the driving video, or an error.

    ``mask`` is a video in the palette, or bool (S, T, H, W), one plane per character in slot order; (T, H, W) for one.
    ``film`` is the driving video, whose aspect the mask must have, as it is read, shown or stored.
    """
    if mask is None:
        raise InputError(
            "driving_mask is missing: the model needs to see which pixels drive which character; "
            "make one with `scail2 masks`."
        )
    check_mask(mask, "driving_mask", frames=True)
    if (planes := _character_planes(mask, 4)) is not None:
        if planes.shape[1] != num_frames == planes.shape[0]:
            raise InputError(
                f"driving_mask has its frames first, {planes.shape}; bool planes are (S, T, H, W), one for each character: "
                "np.swapaxes(driving_mask, 0, 1)."
            )
        source: FrameSource = _PaintedMask(planes, mode)
        size_of_mask: tuple[int, int] | None = planes.shape[2:]
    else:
        given = _source(mask, "driving_mask")
        codec = getattr(getattr(given, "source_info", None), "codec", None)
        source = SnappedFrames(given, "the driving mask", lossy=codec not in LOSSLESS_CODECS)
        size_of_mask = (given.height, given.width) if isinstance(given, SizedFrames) else None
    if film is not None and size_of_mask is not None:
        _check_aspect(size_of_mask, film)
    footage = Footage(_as_the_film(source, film), size, "nearest")
    if len(footage) != num_frames:
        raise InputError(
            f"the driving mask has {len(footage)} frames and the driving video {num_frames}: they must match."
        )
    return footage


def mask_problems(
    reference_mask: Tensor,
    driving_mask: Footage,
    mode: AnimationMode,
    additional_reference_masks: Sequence[Tensor] = (),
) -> list[str]:
    """What in the masks contradicts the mode or each other, judged on frames spread over the whole video.

    A reference's colour that these do not show is looked for in all frames: its character may be seen only briefly.
    Reference masks are uint8 (H, W, 3).
    """
    reference, additional = reference_mask.numpy(), [mask.numpy() for mask in additional_reference_masks]
    count = min(len(driving_mask), _JUDGED_FRAMES)
    indices = np.linspace(0, len(driving_mask) - 1, count).round().astype(int)
    sample = np.concatenate([driving_mask.window(i, i + 1) for i in indices.tolist()])
    missing = set().union(*map(slots_shown, (reference, *additional))) - slots_shown(sample)
    if missing and count < len(driving_mask):
        sample = np.concatenate([sample, *_frames_showing(driving_mask, missing)])
    return check_polarity(reference, sample, mode, additional)


def _frames_showing(mask: Footage, slots: set[BindingSlot]) -> list[np.ndarray]:
    """A frame ``(1, H, W, 3)`` for each of the slots that occur anywhere in a mask; decodes it in windows."""
    found, missing = [], set(slots)
    for start in range(0, len(mask), _JUDGED_FRAMES):
        window = mask.window(start, min(start + _JUDGED_FRAMES, len(mask)))
        if not missing & slots_shown(window):
            continue
        for frame in window:
            if shown := missing & slots_shown(frame):
                found.append(frame[None])
                missing -= shown
        if not missing:
            break
    return found
