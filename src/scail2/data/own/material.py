"""One video of a source, opened at the rate and size of the clips: who is where, how they move, where its scenes begin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.data.own.sources import OwnSource
from scail2.data.own.timing import Array, joint_signal, outline_signal
from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.perception.binding import left_to_right
from scail2.perception.checks.cuts import scene_cuts
from scail2.perception.segmenters.automatic import AutomaticSegmenter
from scail2.perception.segmenters.detail import DetailedFrames, with_detail
from scail2.perception.segmenters.given import GivenMasks
from scail2.perception.segmenters.people import network as people
from scail2.perception.segmenters.people.joints import LIMBS, Joints, find_joints
from scail2.perception.segmenters.protocol import VideoSegmenter
from scail2.perception.tracks import TrackedMasks, relabel
from scail2.request.masks import Prompts
from scail2.video import SizedFrames, VideoReader, probe

# Sides of clips: what every model's grid divides. The area is that of the published training where none is asked for.
SIDE = 32
AREA = 512 * 896
# A character of less than this share of the frames is something that a segmenter took for one.
_FLEETING = 0.1
# From this share of a person's joints inside a character's outline on, the two are one.
_SAME = 0.3
# What these segmenters find are drawn figures or flat shapes: networks for people would guess at them.
_WITHOUT_JOINTS = ("embedded", "plain background")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How videos are read.

    Attributes:
        fps: frames a second of all clips.
        size: (height, width); None: the target's shape, at most as many pixels as the published training has.
        sam3: weights of SAM3, which then finds the characters, and what to ask it for.
        accept: take the segmenter's best where it is not sure.
        joints: whether joints of people are looked for (extra `people`), for hands, poses and exact timing.
    """

    fps: Fraction = Fraction(16)
    size: tuple[int, int] | None = None
    sam3: str | None = None
    prompt: str = "person"
    accept: bool = False
    joints: bool = True

    def size_of(self, target: Path) -> tuple[int, int]:
        """(height, width) of the clips of a source: multiples of 32 in the target's shape, or what was asked for."""
        info = probe(target)
        if self.size is not None:
            height, width = self.size
        else:
            scale = min(1.0, (AREA / (info.height * info.width)) ** 0.5)
            height, width = (int(side * scale) // SIDE * SIDE for side in (info.height, info.width))
        if not height or not width or height % SIDE or width % SIDE:
            would = f"{target.name} would give " if self.size is None else "--size is "
            raise InputError(
                f"clips have sides of multiples of {SIDE} pixels; {would}{height}x{width} (height x width): choose another "
                "--size."
            )
        return height, width

    def describe(self) -> dict[str, object]:
        """What of it decides what is made."""
        return {
            "fps": str(self.fps), "size": self.size, "sam3": self.sam3, "prompt": self.prompt if self.sam3 else None,
            "accept": self.accept, "joints": self.joints and people.installed(),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Material:
    """An opened video.

    Attributes:
        reader: its frames.
        masks: its characters, from left to right.
        joints: of the characters, in their order, in pixels of the clips; None where none were looked for or found.
        cuts: first frames of new scenes.
        notes: sentences for the user.
    """

    side: str
    reader: VideoReader
    masks: TrackedMasks
    joints: Joints | None
    cuts: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Characters in it."""
        return len(self.masks.tracks)

    @property
    def slots(self) -> tuple[BindingSlot | None, ...]:
        """The colours a given palette mask painted them in."""
        return tuple(track.slot for track in self.masks.tracks)

    def signals(self, kind: str) -> list[Array]:
        """How each character moves, see `scail2.data.own.timing`; ``kind`` is "joints" or "outlines"."""
        if kind == "joints" and self.joints is not None:
            return [joint_signal(p, s) for p, s in zip(self.joints.places, self.joints.seen, strict=True)]
        return [outline_signal(self.masks, track) for track in range(self.count)]

    @property
    def has_joints(self) -> bool:
        """Whether every character's joints are known most of the time it is there."""
        if self.joints is None:
            return False
        known = np.isfinite(self.joints.places[..., 0]).any(axis=-1).sum(axis=1)
        return bool((2 * known > [track.present.sum() for track in self.masks.tracks]).all())


def open_material(
    source: OwnSource,
    side: str,
    reading: Reading,
    size: tuple[int, int],
    folder: Path,
    progress: Progress | None = None,
) -> Material:
    """Opens one side of a source.

    Args:
        size: (height, width) of its clips.
        folder: an empty folder for label maps.
        progress: called with (frames done, frames in total) while characters are looked for.

    Raises:
        InputError: an unreadable video or mask, nobody found, or another number of characters than was said.
    """
    path = source.videos[side]
    reader = VideoReader(path, fps=reading.fps, size=size)
    try:
        detailed = with_detail(
            reader,
            (reader.source_info.height, reader.source_info.width),
            lambda s: VideoReader(path, fps=reading.fps, size=s),
        )
        found = _masks(source, side, reading, (reader, detailed), folder, progress)
        lasting = [track.number for track in found.tracks if track.present.mean() >= _FLEETING]
        # Colours of a palette mask say who is who; others are numbered from left to right.
        coloured = any(track.slot is not None for track in found.tracks)
        masks = relabel(found, lasting, folder / "kept") if coloured else left_to_right(found, lasting, folder)
        if not masks.tracks:
            raise InputError("nobody is to be seen in it for longer than a moment")
        wanted = source.characters
        if wanted is not None and len(masks.tracks) != wanted:
            raise InputError(f"{len(masks.tracks)} characters were found in it, {wanted} were said")
        joints = None
        if reading.joints and people.installed() and found.origin not in _WITHOUT_JOINTS:
            joints = _joints_of(masks, detailed)
        return Material(
            side=side, reader=reader, masks=masks, joints=joints, cuts=tuple(scene_cuts(reader)),
            notes=tuple(f"{path.name}: {each}" for each in (*found.warnings, *(n.message for n in reader.source_info.notes))),
        )  # fmt: skip
    except BaseException as error:
        reader.close()
        if isinstance(error, InputError):
            told = str(error) if str(path) in str(error) else f"{path}: {error}"
            raise InputError(_in_our_words(told, side)) from error
        raise


def _in_our_words(told: str, side: str) -> str:
    """A segmenter's sentence about "the driving video" of a run, with the words and options of pairs."""
    told = told.replace("--driving-mask", f"--{side}-mask").replace("the driving video", f"the {side} video")
    return told.replace("`scail2 masks --sam3 WEIGHTS --text person`", "--sam3 WEIGHTS")


def _masks(
    source: OwnSource,
    side: str,
    reading: Reading,
    frames: tuple[VideoReader, SizedFrames],
    folder: Path,
    progress: Progress | None,
) -> TrackedMasks:
    """The characters of a video; ``frames`` as they are and, where they are small, with more detail."""
    reader, detailed = frames
    prompts = Prompts(characters=source.characters) if source.characters else None
    given = source.mask_of(side)
    if given is not None:
        info = reader.source_info
        masks = GivenMasks([given], original=(info.height, info.width), fps=reading.fps)
        return masks.segment(reader, prompts, directory=folder, progress=progress)
    segmenter: VideoSegmenter = AutomaticSegmenter(accept=reading.accept)
    if reading.sam3 is not None:
        from scail2.perception.segmenters.sam3 import Sam3Segmenter

        prompts = Prompts(text=(reading.prompt,), characters=source.characters)
        with no_loading_bars():
            segmenter = Sam3Segmenter.load(reading.sam3)
    return segmenter.segment(detailed, prompts, directory=folder, progress=progress)


def _joints_of(masks: TrackedMasks, frames: SizedFrames) -> Joints | None:
    """Joints of the characters of masks, each the person whose joints lie in its outline; None where no person is found."""
    factor = frames.factor if isinstance(frames, DetailedFrames) else 1
    found = find_joints(frames.detail if isinstance(frames, DetailedFrames) else frames)
    if not len(found.places):
        return None
    places = found.places / factor
    inside = _inside(masks, places, found.seen)
    chosen: list[int | None] = [None] * len(masks.tracks)
    order = np.dstack(np.unravel_index(np.argsort(-inside, axis=None), inside.shape))[0]
    for person, track in order.tolist():
        if inside[person, track] >= _SAME and chosen[track] is None and person not in chosen:
            chosen[track] = person
    if all(each is None for each in chosen):
        return None
    shape = (len(chosen), *places.shape[1:])
    ordered, visibility = np.full(shape, np.nan, np.float32), np.zeros(shape[:-1], np.float32)
    for track, index in enumerate(chosen):
        if index is not None:
            ordered[track], visibility[track] = places[index], found.visibility[index]
    return Joints(places=ordered, visibility=visibility)


def _inside(masks: TrackedMasks, places: Array, seen: Array) -> Array:
    """Share of each person's seen limb joints that lie in each character's outline, float (people, characters)."""
    limbs = list(LIMBS)
    hits = np.zeros((len(places), len(masks.tracks)))
    for start, labels in masks.windows():
        here = places[:, start : start + len(labels), limbs]
        ok = seen[:, start : start + len(labels), limbs] & np.isfinite(here).all(axis=-1)
        columns = np.nan_to_num(here[..., 0]).astype(int).clip(0, masks.width - 1)
        rows = np.nan_to_num(here[..., 1]).astype(int).clip(0, masks.height - 1)
        label = labels[np.arange(len(labels))[None, :, None], rows, columns]
        for track in range(len(masks.tracks)):
            hits[:, track] += (ok & (label == track + 1)).sum(axis=(1, 2))
    total = (seen[:, :, limbs] & np.isfinite(places[:, :, limbs, 0])).sum(axis=(1, 2))
    return hits / np.maximum(total, 1)[:, None]


def signals_of(materials: Sequence[Material]) -> tuple[str, list[list[Array]]]:
    """The signals of a pair, of the sort that both have: "joints" where everybody's are known, else "outlines"."""
    kind = "joints" if all(each.has_joints for each in materials) else "outlines"
    return kind, [each.signals(kind) for each in materials]
