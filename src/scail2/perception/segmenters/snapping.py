"""Which palette colour each pixel of a mask means, where brushes, resizing or lossy codecs have blurred its edges.

Judged by content over the whole clip: a palette colour **counts** where it fills a square of 3x3 pixels in some frame (in a
lossless file also where pixels and all their neighbours are exactly in the palette, so exact files stay exact). A thin
limb keeps its colour as long as it hangs together with such a region. All other pixels are edges: halved colour planes
and blends make thin lines of third colours there, which are no characters. They get the nearest of the colours around.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS
from scail2.video import FrameSource

# Rows of the palette: black, white, then the slots in the order in which they are handed out.
PALETTE = np.array([(0, 0, 0), (255, 255, 255), *(slot.rgb for slot in BINDING_SLOTS)], np.int16)
PALETTE_NAMES = ("black", "white", *(slot.colour for slot in BINDING_SLOTS))
LOSSLESS_CODECS = {"ffv1", "png", "qtrle", "huffyuv", "utvideo"}
MATTE_LEVEL = 127
"""What is brighter than this in a grey or alpha matte is the character."""
# A channel this far from a palette value may still be that colour. Lossy codecs stray further than brushes.
NOISE, LOSSY_NOISE = 48, 72
# Cut-outs of bright cartoons keep further from the pure colours than this.
_CLOSE = 16
# Channels of a square of 3x3 pixels within this are one colour: enlarging makes few such squares between two others.
_FLAT = 24
# Share of a frame's pixels that may be in such squares of no palette colour before the file is refused.
SLACK = 0.002
# Losslessly stored squares this even were painted so: not one is taken.
_PAINTED = 1
# Pieces of a limb are one limb across a gap of one pixel.
_GAP = 2
# How far around an edge pixel colours are looked for, in pixels: near first.
_REACHES = (2, 4, 8, 16)
# A ghost of a third colour lies within this of both colours between which it is.
_EDGE_REACH = 2
# An edge's brightness is right where its colour is not: codecs halve the colour planes.
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)
_BRIGHTNESS_WEIGHT = 4.0
_WINDOW = 16

_ROW_OF_BITS = np.zeros(8, np.uint8)
for _row, _colour in enumerate(PALETTE):
    _ROW_OF_BITS[sum(1 << _bit for _bit in range(3) if _colour[_bit])] = _row


def nearest(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest palette row uint8 (...) and its distance (largest channel difference) uint8 (...) of rgb uint8 (..., 3)."""
    # The palette is the corners of the colour cube: each channel goes to its own nearer end.
    on = (rgb > 127).view(np.uint8)
    rows = _ROW_OF_BITS[on[..., 0] | (on[..., 1] << 1) | (on[..., 2] << 2)]
    distance = np.minimum(rgb, 255 - rgb)
    return rows, np.maximum(np.maximum(distance[..., 0], distance[..., 1]), distance[..., 2])


def near_palette(rgb: np.ndarray) -> np.ndarray:
    """bool (...): which pixels of rgb uint8 (..., 3) a lossy codec may have made of a palette colour."""
    return nearest(rgb)[1] <= LOSSY_NOISE


def near_characters(rgb: np.ndarray, *, lossy: bool) -> np.ndarray:
    """bool (...): which pixels of rgb uint8 (..., 3) have the colour of a character; ``lossy``: a codec may have moved them."""
    rows, distance = nearest(rgb)
    return (rows >= len(PALETTE) - len(BINDING_SLOTS)) & (distance <= (LOSSY_NOISE if lossy else _CLOSE))


def too_dark(where: str, peak: int) -> str:
    """Why a mask whose brightest value is ``peak`` shows nothing, and what to write instead."""
    if peak == 1:
        return (
            f"{where} holds only the values 0 and 1, which are both black: write it with 0 and 255 "
            "(every value times 255; one of 16 bits counts to 65535: save it in 8)."
        )
    if peak <= len(BINDING_SLOTS):
        return (
            f"{where} holds only the values 0 to {peak}, which are all black: these look like numbers of characters; "
            f"paint each in a colour instead (1 {PALETTE_NAMES[2]}, 2 {PALETTE_NAMES[3]} …), or write one mask each with 0 "
            "and 255."
        )
    return (
        f"{where} is nowhere brighter than {peak} of 255, and only what is brighter than {MATTE_LEVEL} counts as a "
        "character: write it with 0 and 255."
    )


class PaletteSnapper:
    """Two passes over a clip: `learn` from every window, in any order, which colours count; then `snap` windows.

    Args:
        lossy: whether the file went through a lossy codec, whose pixels are exact by chance only.
        where: name of the file, for messages.
    """

    def __init__(self, *, lossy: bool, where: str):
        self.lossy, self.where = lossy, where
        self.counting = np.zeros(len(PALETTE), bool)
        self._inexact = self._pixels = 0
        self._dissolved: set[int] = set()
        self._all_exact = True
        self.peak = 0
        self._noise = LOSSY_NOISE if lossy else NOISE

    def learn(self, rgb: np.ndarray) -> None:
        """Notes the colours that fill solid regions of rgb uint8 (T, H, W, 3)."""
        for picture in rgb:
            rows, distance = nearest(picture)
            self._all_exact &= not distance.any()
            self.peak = max(self.peak, int(picture.max()))
            self.counting |= np.bincount(rows[self._sure(rows, distance)], minlength=len(PALETTE)) > 0

    def snap(self, rgb: np.ndarray, start: int = 0) -> np.ndarray:
        """Palette rows uint8 (T, H, W) of rgb uint8 (T, H, W, 3), a window of the clip that begins at frame ``start``.

        Raises:
            InputError: naming the commonest unknown colour and how many pixels have unknown colours.
        """
        snapped = np.empty(rgb.shape[:3], np.uint8)
        for frame, picture in enumerate(rgb):
            rows, distance = nearest(picture)
            blurred = distance > 0
            # Exact throughout, whatever the codec: nothing was blurred, so nothing is an edge.
            if not self._all_exact and (self.lossy or blurred.any()):
                self._refuse_unknown(picture, distance, start + frame)
                before, rows = rows, self._resolve(picture, rows, self._sure(rows, distance))
                self._dissolved |= set(before[before != rows].tolist())
                blurred |= before != rows
            snapped[frame] = rows
            self._inexact += int(blurred.sum())
        self._pixels += snapped.size
        return snapped

    def warnings(self, name: str) -> list[str]:
        """Sentences for the user about what `snap` had to do so far; ``name`` is the file's."""
        if not self._inexact:
            return []
        thin = [PALETTE_NAMES[row] for row in sorted(self._dissolved) if not self.counting[row]]
        lines = f" Thin lines of {', '.join(thin)} were taken for blurred edges, not for characters." if thin else ""
        return [
            f"{self._inexact} of {self._pixels} pixels ({self._inexact / self._pixels:.2%}) of the mask {name} were not "
            "exactly a palette colour and were snapped to the nearest of the colours around; store masks as PNG or FFV1 "
            f"to avoid this.{lines}"
        ]

    def _sure(self, rows: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """bool (H, W): in a square of 3x3 pixels of one colour; or, losslessly stored, exact among exact neighbours."""
        squares = distance[1:-1, 1:-1] <= self._noise
        for neighbours in _neighbours(rows):
            squares &= neighbours == rows[1:-1, 1:-1]
        sure = _spread(squares)
        if not self.lossy:
            sure |= np.logical_and.reduce(list(_neighbours(np.pad(distance == 0, 1, constant_values=True))))
        return sure

    def _resolve(self, rgb: np.ndarray, rows: np.ndarray, sure: np.ndarray) -> np.ndarray:
        """rows with every pixel of no sure colour, and of no limb of one, at the nearest colour around it."""
        margin = _REACHES[-1]
        width = rows.shape[1] + 2 * margin
        sure_row = np.where(sure, rows, len(PALETTE)).astype(np.uint8)
        known = np.pad(sure_row, margin, constant_values=len(PALETTE)).ravel()
        padded = np.pad(rows, margin).ravel()
        ys, xs = np.nonzero(~sure)
        open_ = (ys + margin) * width + xs + margin
        _grow(known, padded, open_[self.counting[padded[open_]]], width)
        left = known[open_] == len(PALETTE)
        ys, xs, open_ = ys[left], xs[left], open_[left]
        # Between no two other colours there is no edge: a piece of a limb whose joint was washed out.
        others = _colours_around(known, open_, width, (_EDGE_REACH,))
        others[np.arange(len(ys)), rows[ys, xs]] = False
        edge = (others.sum(axis=1) >= 2) | ~self.counting[rows[ys, xs]]
        ys, xs = ys[edge], xs[edge]
        around = _colours_around(known, open_[edge], width, _REACHES)
        around[~around.any(axis=1)] = self.counting if self.counting.any() else True
        resolved = rows.copy()
        resolved[ys, xs] = np.where(around, _unlikeness(rgb[ys, xs]), np.inf).argmin(axis=1)
        return resolved

    def _refuse_unknown(self, rgb: np.ndarray, distance: np.ndarray, frame: int) -> None:
        far = distance > self._noise
        if not far.any():
            return
        middles = np.logical_and.reduce(list(_neighbours(far)))
        around = [np.stack(list(_neighbours(channel))) for channel in np.moveaxis(rgb, -1, 0)]
        span = np.maximum.reduce([values.max(axis=0) - values.min(axis=0) for values in around])
        unknown = _spread(middles & (span <= _FLAT))
        painted = not self.lossy and (middles & (span <= _PAINTED)).any()
        if not painted and unknown.sum() <= max(SLACK * unknown.size, 9):
            return
        colours, counts = np.unique(rgb[unknown], axis=0, return_counts=True)
        commonest = tuple(int(value) for value in colours[counts.argmax()])
        raise InputError(
            f"{self.where} holds colours outside the mask palette: rgb{commonest} and {len(colours) - 1} more on "
            f"{int(unknown.sum())} pixels of frame {frame}; paint characters in pure {', '.join(PALETTE_NAMES[2:])} "
            "and the background in black or white."
        )


class SnappedFrames:
    """Mask frames in which every pixel is exactly a palette colour, as a `FrameSource`.

    Frames that are exact already pass as they are; the first that is not has the whole clip looked at.

    Args:
        source: the frames.
        where: name of the mask, for messages.
        lossy: whether they may have gone through a lossy codec.
    """

    def __init__(self, source: FrameSource, where: str, *, lossy: bool):
        self.source, self.where, self.lossy = source, where, lossy
        self._snapper: PaletteSnapper | None = None

    def __len__(self) -> int:
        return len(self.source)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop): uint8 (T, H, W, 3). Raises `InputError` for colours outside the palette."""
        return PALETTE.astype(np.uint8)[self.rows(start, stop)]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The same as rows of the palette: uint8 (T, H, W)."""
        rgb = self.source.frames(start, stop)[..., :3]
        rows, distance = nearest(rgb)
        return self._learnt().snap(rgb, start) if distance.any() else rows

    def _learnt(self) -> PaletteSnapper:
        if self._snapper is None:
            snapper = PaletteSnapper(lossy=self.lossy, where=self.where)
            for first in range(0, len(self), _WINDOW):
                snapper.learn(self.source.frames(first, min(first + _WINDOW, len(self)))[..., :3])
            if 0 < snapper.peak <= MATTE_LEVEL:
                raise InputError(too_dark(self.where, snapper.peak))
            self._snapper = snapper
        return self._snapper


def _neighbours(values: np.ndarray) -> Iterator[np.ndarray]:
    """The nine views of (H, W) which hold, for each pixel that is not on the border, those of its square of 3x3."""
    height, width = values.shape
    for y, x in product(range(3), repeat=2):
        yield values[y : height - 2 + y, x : width - 2 + x]


def _spread(middles: np.ndarray) -> np.ndarray:
    """bool (H, W): the squares of 3x3 pixels whose middles, bool (H - 2, W - 2), are given."""
    squares = np.zeros([size + 2 for size in middles.shape], bool)
    for part in _neighbours(squares):
        part |= middles
    return squares


def _grow(known: np.ndarray, rows: np.ndarray, waiting: np.ndarray, width: int) -> None:
    """Carries sure colours on along limbs: to the waiting pixels that are linked to a known one of the same row.

    Args:
        known: row of every sure pixel, else ``len(PALETTE)``; flat, of lines of ``width``; changed in place.
        rows: nearest row of every pixel, laid out alike.
        waiting: places of the pixels that may be reached.
    """
    steps = [y * width + x for y, x in product(range(-_GAP, _GAP + 1), repeat=2) if y or x]
    open_ = np.zeros(known.shape, bool)
    open_[waiting] = True
    linked = np.logical_or.reduce([known[waiting + step] == rows[waiting] for step in steps])
    front = waiting[linked]
    number = np.zeros(known.shape, np.int32)
    while front.size:
        known[front], open_[front] = rows[front], False
        beside = [front + step for step in steps]
        reached = np.concatenate([at[open_[at] & (rows[at] == rows[front])] for at in beside])
        # Each place once: the one that wrote its number last.
        own = np.arange(len(reached), dtype=np.int32)
        number[reached] = own
        front = reached[number[reached] == own]


def _colours_around(known: np.ndarray, places: np.ndarray, width: int, reaches: Sequence[int]) -> np.ndarray:
    """bool (N, 8): the known colours around each place, from the first of the reaches that has any."""
    around = np.zeros((len(places), len(PALETTE) + 1), bool)
    missing = np.arange(len(places))
    for reach in reaches:
        for y, x in product(range(-reach, reach + 1), repeat=2):
            around[missing, known[places[missing] + y * width + x]] = True
        missing = missing[~around[missing, :-1].any(axis=1)]
    return around[:, :-1]


def _unlikeness(colours: np.ndarray) -> np.ndarray:
    """How far rgb (N, 3) is from each palette colour, brightness above all: float32 (N, 8)."""
    difference = colours[:, None].astype(np.float32) - PALETTE.astype(np.float32)
    return (difference @ _BRIGHTNESS) ** 2 * _BRIGHTNESS_WEIGHT + (difference**2).mean(axis=-1)
