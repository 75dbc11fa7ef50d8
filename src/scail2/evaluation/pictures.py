"""What an evaluation looks like: contact sheets of clips, and a bar plot beside the baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from scail2.evaluation.protocols import MeasuredClip

Array = np.ndarray

_GAP, _HEADER = 4, 14
_PLOTTED = ("character_psnr", "background_psnr", "character_ssim", "frame_difference_correlation", "limb_iou")


def sheet_row(reference: Array, driving: Array, output: Array, truth: Array, times: int = 3) -> Array:
    """reference | (driving | output | truth) at `times` moments, side by side; uint8 `(H, W', 3)`."""
    gap = np.full((len(reference), _GAP, 3), 255, np.uint8)
    picked = np.linspace(0, len(truth) - 1, times + 1).round().astype(int)[1:]
    columns = [reference]
    for index in picked:
        columns += [gap, driving[index], output[index], truth[index]]
    return np.concatenate(columns, axis=1)


def contact_sheet(rows: Sequence["MeasuredClip"], path: Path, times: int = 3) -> Path:
    """Writes one picture with a row for every clip."""
    width = rows[0].clip.truth.shape[2]
    bands = []
    for row in rows:
        triplet = row.clip.triplet
        bands.append(sheet_row(triplet.reference, triplet.driving, row.generated.frames, row.clip.truth, times))
        bands.append(np.full((_GAP, bands[-1].shape[1], 3), 255, np.uint8))
    body = np.concatenate(bands)
    sheet = Image.new("RGB", (body.shape[1], body.shape[0] + _HEADER), "white")
    sheet.paste(Image.fromarray(body), (0, _HEADER))
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 1), "reference", fill="black")
    for group in range(times):
        start = width + _GAP + group * (3 * width + _GAP)
        for place, name in enumerate(("driving", "output", "truth")):
            draw.text((start + place * width + 2, 1), name, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


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
