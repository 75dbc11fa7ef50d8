"""What an evaluation looks like: contact sheets of clips, and a bar plot beside the baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from scail2.evaluation.protocols import MeasuredClip

Array = np.ndarray

_GAP, _HEADER = 4, 14
_PLOTTED = ("character_psnr", "background_psnr", "character_ssim", "frame_difference_correlation", "limb_iou")


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One clip of a contact sheet: a picture (H, W, 3) and three videos (T, H, W, 3) of its size, uint8."""

    reference: Array
    driving: Array
    output: Array
    truth: Array

    @classmethod
    def of(cls, measured: "MeasuredClip") -> "SheetRow":
        """The row of an evaluated clip."""
        triplet = measured.clip.triplet
        return cls(triplet.reference, triplet.driving, measured.generated.frames, measured.clip.truth)

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


def plot(report: Mapping[str, Any], path: Path) -> Path:
    """Bars of the main measures: output beside the baselines, one group per task.

    Args:
        report: `EvaluationReport.to_json()`.

    Raises:
        ImportError: matplotlib (extra `plot`) is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = [name for name in report if name != "settings"]
    figure = Figure(figsize=(3.2 * len(_PLOTTED), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, measure in zip(figure.subplots(1, len(_PLOTTED)), _PLOTTED, strict=True):
        bars = {"output": [report[task][measure] for task in tasks]}
        for name in report[tasks[0]]["baselines"]:
            bars[name.replace("_", " ")] = [report[task]["baselines"][name][measure] for task in tasks]
        for number, (name, values) in enumerate(bars.items()):
            places = np.arange(len(tasks)) + 0.27 * (number - 1)
            axis.bar(places, [0.0 if value is None else value for value in values], width=0.25, label=name)
        axis.set_title(measure.replace("_", " "), fontsize=9)
        axis.set_xticks(range(len(tasks)), [task.replace("_", "\n") for task in tasks], fontsize=7)
    axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
