"""Pairs and triplets as pictures: masks over the frames, text hatched, hands boxed, a row for each."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from scail2.data.contact_sheet import labelled_sheet
from scail2.data.own.listing import Listed
from scail2.data.own.timing import Array
from scail2.data.pairs import Clip, MotionPair
from scail2.data.triplets import TrainingTriplet
from scail2.files.staging import atomic_file
from scail2.masks import BINDING_SLOTS

_MOMENTS, _PER_SHEET = 4, 10
_TINT = 0.4


def shown_frame(clip: Clip, number: int) -> Array:
    """A frame uint8 (H, W, 3) with its characters tinted in their slots' colours, text hatched and hands boxed."""
    frame = clip.frames[number].astype(float)
    for mask, slot in zip(clip.tracks[:, number], BINDING_SLOTS, strict=False):
        frame[mask] = (1 - _TINT) * frame[mask] + _TINT * np.array(slot.rgb)
    if clip.excluded is not None:
        _hatch(frame, clip.excluded[number])
    if clip.hand_boxes is not None:
        for box in clip.hand_boxes[:, number].reshape(-1, 4):
            _outline(frame, box)
    return frame.astype(np.uint8)


def _hatch(frame: Array, where: Array) -> None:
    rows, columns = np.indices(where.shape)
    frame[where & ((rows + columns) // 2 % 2 == 0)] = (255, 0, 255)


def _outline(frame: Array, box: Array) -> None:
    x0, y0, x1, y1 = np.clip(np.nan_to_num(box).round().astype(int), 0, [frame.shape[1] - 1, frame.shape[0] - 1] * 2)
    if x1 > x0 and y1 > y0:
        frame[y0 : y1 + 1, [x0, x1]] = frame[[y0, y1], x0 : x1 + 1] = (255, 255, 0)


def _moments(frames: int) -> list[int]:
    return np.unique(np.linspace(0, frames - 1, _MOMENTS).round().astype(int)).tolist()


def pair_row(of: Listed, pair: MotionPair) -> tuple[str, list[Array]]:
    """A pair at four moments: driving video beside target, and the target's pose render where it has one."""
    pictures: list[Array] = []
    for number in _moments(len(pair.real.frames)):
        sides = [pair.real] if pair.is_single else [pair.synthetic, pair.real]
        pictures += [shown_frame(clip, number) for clip in sides]
        if pair.real.pose is not None:
            pictures.append(pair.real.pose[number])
    told = [f"{side} {name} {value:.2f}" for side, each in of.measures.items() for name, value in each.items()]
    return f"{of.key}  {of.kind}, {of.frames} frames  {', '.join(told)}", pictures


def triplet_row(key: str, triplet: TrainingTriplet) -> tuple[str, list[Array]]:
    """A triplet: reference and its mask, then at four moments driving video, its mask and the target, text hatched."""
    pictures = [triplet.reference, triplet.reference_mask]
    for number in _moments(len(triplet.target)):
        target = triplet.target[number].astype(float)
        if triplet.excluded is not None:
            _hatch(target, triplet.excluded[number])
        pictures += [triplet.driving[number], triplet.driving_mask[number], target.astype(np.uint8)]
    said = f', "{triplet.caption}"' if triplet.caption else ""
    return f"{key}  {triplet.kind}, {triplet.mode}, {' and '.join(triplet.slots)}{said}", pictures


def write_sheets(folder: Path, name: str, rows: Iterable[tuple[str, list[Array]]]) -> list[Path]:
    """Sheets of ten rows, `NAME-000.png` …; sheets of that name that are no longer needed go."""
    written: list[Path] = []
    waiting: list[tuple[str, list[Array]]] = []

    def write() -> None:
        path = folder / f"{name}-{len(written):03d}.png"
        with atomic_file(path) as file:
            Image.fromarray(labelled_sheet(waiting)).save(file, format="PNG")
        written.append(path)
        waiting.clear()

    for row in rows:
        waiting.append(row)
        if len(waiting) == _PER_SHEET:
            write()
    if waiting:
        write()
    for old in set(folder.glob(f"{name}-[0-9][0-9][0-9].png")) - set(written):
        old.unlink()
    return written
