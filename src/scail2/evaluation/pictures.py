"""What an evaluation looks like: rows of a contact sheet, and a bar plot beside the baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scail2.data.contact_sheet import SheetRow
from scail2.evaluation.protocols import MeasuredClip

_PLOTTED = ("character_psnr", "background_psnr", "character_ssim", "frame_difference_correlation", "limb_iou")


def sheet_row(measured: MeasuredClip) -> SheetRow:
    """The row of an evaluated clip."""
    triplet = measured.clip.triplet
    return SheetRow(triplet.reference, triplet.driving, measured.generated.frames, measured.clip.truth)


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
