"""Contact sheets: what a network made of clips, a row for each, beside what it should have been."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray


_GAP, _HEADER = 4, 14
# A row's label has room, however narrow its pictures are.
_LEAST_WIDTH = 760


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One clip of a contact sheet: a picture (H, W, 3) and three videos (T, H, W, 3) of its size, uint8."""

    reference: Array
    driving: Array
    output: Array
    truth: Array

    def side_by_side(self, times: int) -> Array:
        """reference | (driving | output | truth) at ``times`` moments, uint8 ``(H, W', 3)``."""
        gap = np.full((len(self.reference), _GAP, 3), 255, np.uint8)
        picked = np.linspace(0, len(self.truth) - 1, times + 1).round().astype(int)[1:]
        columns = [self.reference]
        for index in picked:
            columns += [gap, self.driving[index], self.output[index], self.truth[index]]
        return np.concatenate(columns, axis=1)


def contact_sheet(rows: Sequence[SheetRow], times: int = 3) -> Array:
    """One picture with a row for every clip, uint8 ``(H, W, 3)``; a smaller clip leaves white beside it."""
    width = max(row.truth.shape[2] for row in rows)
    bands = [row.side_by_side(times) for row in rows]
    height = _HEADER + sum(len(band) + _GAP for band in bands)
    sheet = Image.new("RGB", (max(band.shape[1] for band in bands), height), "white")
    top = _HEADER
    for band in bands:
        sheet.paste(Image.fromarray(band), (0, top))
        top += len(band) + _GAP
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 1), "reference", fill="black")
    for group in range(times):
        start = width + _GAP + group * (3 * width + _GAP)
        for place, name in enumerate(("driving", "output", "truth")):
            draw.text((start + place * width + 2, 1), name, fill="black")
    return np.asarray(sheet)


def labelled_sheet(rows: Sequence[tuple[str, Sequence[Array]]], height: int = 112) -> Array:
    """One picture with a row for every (label, pictures uint8 (H, W, 3)), each scaled to ``height``, its label above it."""
    bands = []
    for label, pictures in rows:
        scaled = []
        for picture in pictures:
            size = max(1, round(picture.shape[1] * height / picture.shape[0])), height
            scaled.append(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
        bands.append((label, scaled))
    width = max(sum(each.width + _GAP for each in scaled) for _, scaled in bands)
    sheet = Image.new("RGB", (max(width, _LEAST_WIDTH), len(bands) * (height + _HEADER + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (label, scaled) in enumerate(bands):
        top, left = number * (height + _HEADER + _GAP), 0
        draw.text((2, top + 1), label.encode("ascii", "replace").decode(), fill="black")
        for each in scaled:
            sheet.paste(each, (left, top + _HEADER))
            left += each.width + _GAP
    return np.asarray(sheet)
