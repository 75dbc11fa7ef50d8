"""`MaskStore`: masks as files that people can look at, repaint, freeze and reuse.

::

    DIR/reference_mask.png     palette picture
    DIR/additional_mask_1.png  one for each further reference view
    DIR/driving_mask.mkv       palette video, FFV1 in RGB: every value survives
    DIR/driving_mask/          the same as PNG frames, when present it wins: what a painting program edits
    DIR/tracks.json            who is who: boxes, colours, confidence, binding, hashes of the sources
    DIR/superseded/N/          masks that newer ones replaced, each a store of its own
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scail2.errors import InputError
from scail2.files.documents import decode, load_json
from scail2.files.staging import Staging, atomic_file, set_aside
from scail2.masks import BindingSlot
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.perception.binding import Binding, colours_in_order
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.segmenters.given import GivenMasks, PictureFrames
from scail2.perception.segmenters.snapping import PALETTE, SnappedFrames
from scail2.perception.store_folder import replacing, unfreezing
from scail2.perception.stored_facts import STORE_VERSION, StoredFacts, describe
from scail2.perception.tracks import TrackedMasks
from scail2.video import SizedFrames, VideoReader, VideoWriter, first_frames, read_image

_WINDOW = 16
_RGB = PALETTE.astype(np.uint8)
_BACKGROUNDS = {"black": _RGB[0], "white": _RGB[1]}


def _digest_of(path: Path) -> str:
    """Digest of a mask in force: a file, or a folder of painted frames. Frozen masks remember it, so it never changes."""
    digest = hashlib.sha256()
    path = Path(path)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for each in files:
        if path.is_dir():
            digest.update(os.fsencode(each.relative_to(path)))
        with each.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def paint(labels: np.ndarray, slots: Mapping[int, BindingSlot], background: str) -> np.ndarray:
    """Palette frames uint8 (T, H, W, 3) of label maps uint8 (T, H, W); labels without a slot become background."""
    table = np.repeat(_BACKGROUNDS[background][None], 256, axis=0)
    for number, slot in slots.items():
        table[number] = slot.rgb
    return table[labels]


class PaletteFrames:
    """A palette clip as a `FrameSource` whose pixels are exactly palette colours, on the background a mode asks for.

    Args:
        source: the painted frames.
        where: name of the file, for messages.
        repaint: (old, new) background colours, or None to leave it. Of a frame that was painted on the other background that
            one is repainted.
    """

    def __init__(self, source: SizedFrames, where: str, repaint: tuple[str, str] | None = None):
        self.source, self.repaint = source, repaint
        self.height, self.width = source.height, source.width
        self._snapped = SnappedFrames(source, where, lossy=False)

    def __len__(self) -> int:
        return len(self._snapped)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop): uint8 (T, H, W, 3). Raises `InputError` for colours outside the palette."""
        rows = self._snapped.rows(start, stop)
        if not self.repaint:
            return _RGB[rows]
        old, new = self.repaint
        black, white = ((rows == row).sum(axis=(1, 2)) for row in (0, 1))
        painted = np.where(black == white, 0 if old == "black" else 1, white > black)
        tables = np.repeat(_RGB[None], len(rows), axis=0)
        tables[np.arange(len(rows)), painted.astype(int)] = _BACKGROUNDS[new]
        return tables[np.arange(len(rows))[:, None, None], rows]


def _write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def _write_picture(path: Path, rgb: np.ndarray) -> None:
    with atomic_file(path) as file:
        Image.fromarray(rgb).save(file, format="PNG")


class MaskStore:
    """Masks in a folder. Open an existing one with ``MaskStore(directory)``."""

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        path = self.directory / "tracks.json"
        try:
            self.info = load_json(path, dict[str, Any], nonfinite=True)
        except FileNotFoundError:
            raise InputError(f"{self.directory} holds no masks: there is no tracks.json in it.") from None
        if self.info.get("version") != STORE_VERSION:
            raise InputError(f"{path} is not a version {STORE_VERSION} track file of scail2.")
        self._facts = decode(self.info, StoredFacts, path, nonfinite=True, unknown=True)

    @classmethod
    def write(
        cls,
        directory: str | Path,
        masks: BoundMasks,
        *,
        fps: Fraction,
        sources: Mapping[str, str],
        files: Mapping[str, str] | None = None,
    ) -> "MaskStore":
        """Paints and stores masks; older ones move to `superseded/`, frozen ones are refused.

        Args:
            fps: the driving video's rate.
            sources: names and digests of the files (and settings) the masks depend on.
            files: what the preview needs to find again: ``reference``, ``driving`` (paths) and ``fit``.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory) as made:
            cls._paint(made, masks, fps)
            _write_json(made / "tracks.json", describe(masks, fps, sources, files or {}))
        return cls(directory)

    @staticmethod
    def _paint(directory: Path, masks: BoundMasks, fps: Fraction) -> None:
        traits = MODE_TRAITS[masks.mode]
        shown, moved = masks.binding.reference_slots(), masks.binding.driving_slots()
        still = paint(masks.reference.labels.labels(0, 1), shown, traits.reference_background)[0]
        _write_picture(directory / "reference_mask.png", still)
        for index, (view, own) in enumerate(zip(masks.views, masks.own_backgrounds, strict=False), start=1):
            painted = paint(view.characters.labels.labels(0, 1), view.slots, own or traits.reference_background)[0]
            _write_picture(directory / f"additional_mask_{index}.png", painted)
        size = (masks.driving.height, masks.driving.width)
        with VideoWriter(directory / "driving_mask.mkv", fps, size, codec="ffv1") as writer:
            for _, labels in masks.driving.windows(_WINDOW):
                writer.write(paint(labels, moved, traits.driving_background))

    @property
    def mode(self) -> AnimationMode:
        """The mode the masks were painted for."""
        return self._facts.mode

    @property
    def height(self) -> int:
        return self._facts.height

    @property
    def width(self) -> int:
        return self._facts.width

    @property
    def total(self) -> int:
        """Frames of the driving mask."""
        return self._facts.frames

    @property
    def fps(self) -> Fraction:
        return self._facts.fps

    @property
    def files(self) -> dict[str, str]:
        """What the masks were made with: ``reference``, ``driving`` (paths), ``fit`` and ``reframe``, as far as it is known."""
        return self._facts.files

    @property
    def frozen(self) -> bool:
        """Whether the masks may no longer be overwritten."""
        return bool(self.info.get("frozen"))

    @property
    def source_hash(self) -> str:
        """One digest of the pictures and videos (and settings) the masks were made from."""
        return self._facts.source_hash

    @property
    def binding(self) -> Binding:
        """Who moves whom, as stored."""
        return self._facts.binding.to_binding()

    @property
    def driving_path(self) -> Path:
        """The driving mask in force: the folder of PNG frames when there is one, else the video."""
        folder = self.directory / "driving_mask"
        return folder if folder.is_dir() else self.directory / "driving_mask.mkv"

    @property
    def reference(self) -> np.ndarray:
        """The reference mask in the store's own mode: uint8 (H, W, 3), palette colours."""
        return self.reference_for(self.mode)

    @property
    def driving(self) -> PaletteFrames:
        """The driving mask in the store's own mode, as a `FrameSource`."""
        return self.driving_for(self.mode)

    def _still(self, name: str, mode: AnimationMode, *, repaint: bool = True) -> np.ndarray:
        path = self.directory / name
        if not path.exists():
            raise InputError(f"{self.directory} holds no {name}: make the masks again or put the picture back.")
        change = (MODE_TRAITS[self.mode].reference_background, MODE_TRAITS[mode].reference_background)
        picture = PictureFrames(read_image(path)[..., :3])
        self._check_still(path, picture.height, picture.width)
        changes = repaint and change[0] != change[1]
        return PaletteFrames(picture, str(path), change if changes else None).frames(0, 1)[0]

    def _check_still(self, path: Path, height: int, width: int) -> None:
        """Refuses a mask of another size than it was made in, which would be cropped to another place."""
        made = (self._facts.reference_height, self._facts.reference_width)
        if None not in made and (height, width) != made:
            raise InputError(
                f"{path} is {width}x{height}, but was made as {made[1]}x{made[0]}: edit it, but keep its size."
            )

    def reference_for(self, mode: AnimationMode) -> np.ndarray:
        """The reference mask repainted for `mode`: uint8 (H, W, 3)."""
        return self._still("reference_mask.png", mode)

    @property
    def own_backgrounds(self) -> tuple[str | None, ...]:
        """Background that came with each additional reference's mask, None where the mode decides."""
        return self._facts.additional_backgrounds

    def additional_for(self, mode: AnimationMode) -> tuple[np.ndarray, ...]:
        """Masks of the additional references, each uint8 (H, W, 3): repainted for `mode` unless their background was given."""
        names = self._additional_paths()
        own = itertools.chain(self.own_backgrounds, itertools.repeat(None))
        return tuple(
            self._still(path.name, mode, repaint=given is None) for path, given in zip(names, own, strict=False)
        )

    def _additional_paths(self) -> list[Path]:
        """Their masks in order; copies that a painting program left beside them are none."""
        found = [path for path in self.directory.iterdir() if re.fullmatch(r"additional_mask_\d+\.png", path.name)]
        return sorted(found, key=lambda path: int(path.stem.rsplit("_", 1)[1]))

    def driving_for(self, mode: AnimationMode) -> PaletteFrames:
        """The driving mask repainted for `mode`, as a `FrameSource` of uint8 (T, H, W, 3)."""
        path = self.driving_path
        if not path.exists():
            raise InputError(f"{self.directory} holds no driving mask: make the masks again.")
        source = VideoReader(path, interpolation="nearest")
        if len(source) != self.total or (source.height, source.width) != (self.height, self.width):
            raise InputError(
                f"{path} has {len(source)} frames of {source.width}x{source.height}, but these masks were made as "
                f"{self.total} frames of {self.width}x{self.height}: edit frames, but keep their number and size."
            )
        change = (MODE_TRAITS[self.mode].driving_background, MODE_TRAITS[mode].driving_background)
        return PaletteFrames(source, str(path), change)

    def backgrounds_for(
        self, mode: AnimationMode, seen: tuple[str | None, str | None]
    ) -> tuple[str | None, str | None]:
        """Backgrounds of reference and driving mask after that repainting, from those that are in the files."""
        own, wanted = MODE_TRAITS[self.mode], MODE_TRAITS[mode]
        return (
            wanted.reference_background if seen[0] == own.reference_background else seen[0],
            wanted.driving_background if seen[1] == own.driving_background else seen[1],
        )

    def measure(self, directory: Path | None = None, count: int | None = None) -> tuple[TrackedMasks, TrackedMasks]:
        """Reference and driving characters as the files show them now, one track per colour, numbered as in tracks.json.

        Args:
            directory: gets the driving video's label maps; None keeps them in memory.
            count: of the driving video only this many frames, from the first.
        """
        moving = first_frames(self.driving_for(self.mode).source, count)
        slots = colours_in_order(self.binding.driving_slots())
        return self._still_characters(), GivenMasks([self.driving_path], slots=slots).segment(
            moving, directory=directory
        )

    def _still_characters(self) -> TrackedMasks:
        path = self.directory / "reference_mask.png"
        picture = PictureFrames(read_image(path))
        self._check_still(path, picture.height, picture.width)
        return GivenMasks([path], slots=colours_in_order(self.binding.reference_slots())).segment(picture)

    def content_hash(self) -> str:
        """Digest of the masks themselves, to key anything computed from them."""
        digest = hashlib.sha256()
        for path in [*sorted([*self._additional_paths(), self.directory / "reference_mask.png"]), self.driving_path]:
            digest.update(_digest_of(path).encode())
        return digest.hexdigest()

    def freeze(self) -> None:
        """Marks the masks as final: remembers their digest and refuses to be overwritten.

        Raises:
            InputError: they are not whole.
        """
        self.reference, self.driving  # noqa: B018 - both are looked into
        self._update(frozen=True, content_hash=self.content_hash())

    def unfreeze(self) -> None:
        """Allows changes again."""
        self._update(frozen=False, content_hash=None)

    def verify(self) -> None:
        """Raises `InputError` when frozen masks were changed after freezing."""
        if self.frozen and self.info.get("content_hash") != self.content_hash():
            raise InputError(
                f"the masks in {self.directory} were changed after they were frozen: run "
                f"{unfreezing(self.directory)}, then look at them with scail2 masks check."
            )

    def _update(self, **changes: Any) -> None:
        self.info = self.info | changes
        _write_json(self.directory / "tracks.json", self.info)

    def unpack(self) -> Path:
        """Writes the driving mask as PNG frames for a painting program; from then on the folder is the mask in force."""
        folder = self.directory / "driving_mask"
        if folder.is_dir():
            return folder
        frames = self.driving
        with Staging(folder) as staging:
            staging.place.mkdir()
            for start in range(0, self.total, _WINDOW):
                for offset, rgb in enumerate(frames.frames(start, min(start + _WINDOW, self.total))):
                    Image.fromarray(rgb).save(staging.place / f"{start + offset:06d}.png", format="PNG")
            staging.publish()
        return folder

    def pack(self) -> Path:
        """Turns edited PNG frames back into the one lossless video, snapping softened edges to the palette.

        The frames as they were painted are kept in `superseded/`.
        """
        video = self.directory / "driving_mask.mkv"
        frames = self.driving
        if self.driving_path == video:
            raise InputError(
                f"{self.directory} holds no driving_mask folder of edited frames: there is nothing to pack."
            )
        with VideoWriter(video, self.fps, (self.height, self.width), codec="ffv1") as writer:
            for start in range(0, self.total, _WINDOW):
                writer.write(frames.frames(start, min(start + _WINDOW, self.total)))
        set_aside(self.directory / "driving_mask")
        return video
