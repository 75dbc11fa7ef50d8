"""The masks of a run as clients see and repaint them."""

from pathlib import Path
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.perception.segmenters.snapping import NOISE, PALETTE, PALETTE_NAMES, nearest
from scail2.perception.store import MaskStore
from scail2.serving.refusals import MissingError, RefusalError
from scail2.serving.views import RunView, write_png
from scail2.video import read_image


class MaskView:
    """Reference and driving masks of one run; its store, with the rules of `MaskStore`."""

    def __init__(self, view: RunView) -> None:
        self._folder = view.place.run / "masks"
        if not (self._folder / "tracks.json").is_file():
            raise MissingError(f"The run {view.row.id} has no masks yet: ask for a plan first.")
        self._store = MaskStore(self._folder)

    def facts(self) -> dict[str, Any]:
        """Sizes, frames, colours, who moves whom, and the characters as they were found."""
        info = self._store.info
        told: dict[str, Any] = {
            name: info[name] for name in ("mode", "fps", "binding", "driving", "reference") if name in info
        }
        palette = {name: list(map(int, rgb)) for name, rgb in _palette().items()}
        sizes = {"height": self._store.height, "width": self._store.width, "frames": self._store.total}
        return {**sizes, "palette": palette, "frozen": self._store.frozen, **told}

    def reference(self) -> np.ndarray:
        """The reference's mask, uint8 (H, W, 3)."""
        return self._store.reference

    def driving(self, frame: int) -> np.ndarray:
        """One frame of the driving mask, uint8 (H, W, 3)."""
        self._check(frame)
        return self._store.driving.frames(frame, frame + 1)[0]

    def put_reference(self, painted: Path) -> None:
        """Replaces the reference's mask by a painted picture of its size."""
        self._check_open()
        current = self._store.reference
        write_png(self._folder / "reference_mask.png", _painted(painted, current.shape[:2]))

    def put_driving(self, frame: int, painted: Path, *, through: int | None = None) -> None:
        """Replaces one frame of the driving mask; from then on the mask is a folder of pictures.

        ``through`` a later frame: what was painted on the first, and only that, is painted on all up to it.
        """
        last = frame if through is None else through
        self._check(frame)
        self._check(last)
        if last < frame:
            raise RefusalError(f"'through' is {last}, before the frame {frame} that was painted: name a later one.")
        self._check_open()
        pixels = _painted(painted, (self._store.height, self._store.width))
        changed = (pixels != self.driving(frame)).any(axis=-1)
        later = {number: self.driving(number) for number in range(frame + 1, last + 1)}
        folder = self._store.unpack()
        write_png(folder / f"{frame:06d}.png", pixels)
        for number, mask in later.items():
            write_png(folder / f"{number:06d}.png", np.where(changed[..., None], pixels, mask))

    def _check(self, frame: int) -> None:
        if not 0 <= frame < self._store.total:
            raise MissingError(f"There is no frame {frame}: the driving mask has {self._store.total}.")

    def _check_open(self) -> None:
        if self._store.frozen:
            raise RefusalError("These masks are frozen: unfreeze them first.")


def _painted(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A painted picture in exact palette colours. Refuses other sizes and colours that are none of the palette's."""
    try:
        pixels = read_image(path)[..., :3]
    except InputError as error:
        raise RefusalError(str(error).replace(str(path), "The mask")) from None
    if pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        raise RefusalError(f"The mask has {width}×{height} pixels; {size[1]}×{size[0]} are needed.")
    rows, distance = nearest(pixels)
    if (wrong := int((distance > NOISE).sum())) > 0:
        raise RefusalError(
            f"{wrong} pixels of the mask are none of the palette's colours: paint with {', '.join(_palette())} and without "
            "soft edges."
        )
    return PALETTE.astype(np.uint8)[rows]


def _palette() -> dict[str, np.ndarray]:
    return dict(zip(PALETTE_NAMES, PALETTE, strict=True))
