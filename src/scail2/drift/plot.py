"""The drift of a run as one picture: five small panels over the segments."""

import io
import os
from collections.abc import Callable
from pathlib import Path

from scail2.drift.measure import DriftReport, SegmentDrift
from scail2.errors import InputError
from scail2.files.storage import write_bytes

Series = dict[str, Callable[[SegmentDrift], float | None]]

_PANELS: list[tuple[str, str, Series, float]] = [
    ("drift", "score against segment 0", {"score": lambda s: s.score}, 0.0),
    (
        "colour",
        "difference of means (CIE 1976)",
        {
            "character, from segment 0": lambda s: s.to_first.colour_inside,
            "surroundings, from segment 0": lambda s: s.to_first.colour_outside,
            "whole, from segment 0": lambda s: s.to_first.colour_whole,
            "whole, from reference": lambda s: s.to_reference.colour_whole if s.to_reference else None,
        },
        0.0,
    ),
    (
        "contrast and sharpness",
        "log2 of ratio to segment 0",
        {"contrast": lambda s: s.to_first.contrast, "sharpness": lambda s: s.to_first.sharpness},
        0.0,
    ),
    (
        "identity",
        "distance 0 … 1",
        {
            "from segment 0": lambda s: s.to_first.identity,
            "from reference": lambda s: s.to_reference.identity if s.to_reference else None,
        },
        0.0,
    ),
    ("seams", "join / usual difference", {"seam energy": lambda s: s.seam_energy}, 1.0),
]


def plot(report: DriftReport, path: str | os.PathLike, *, limit: float | None = None) -> None:
    """Draws the report as PNG (900 × 1200 pixels), beside and then renamed.

    Raises:
        InputError: matplotlib is missing (``pip install "scail2[plot]"``), or the report is empty.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('the drift plot needs matplotlib; install it with: pip install "scail2[plot]"') from None
    if not report.segments:
        raise InputError("the drift report holds no segments yet; render one first")
    figure = Figure(figsize=(9, 12), dpi=100)
    # Margins in numbers: having them found out draws the picture several times.
    figure.subplots_adjust(left=0.11, right=0.98, top=0.97, bottom=0.05, hspace=0.28)
    FigureCanvasAgg(figure)  # no global state: pyplot and its chosen backend stay untouched
    axes = figure.subplots(len(_PANELS), 1, sharex=True)
    for axis, (title, unit, series, neutral) in zip(axes, _PANELS, strict=True):
        axis.axhline(neutral, color="0.8", linewidth=1)
        for name, value in series.items():
            points = [(s.index, value(s)) for s in report.segments if value(s) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set_title(title, loc="left")
        axis.set_ylabel(unit, fontsize=8)
        axis.yaxis.set_label_coords(-0.09, 0.5)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, loc="best")
    if limit is not None:
        axes[0].axhline(limit, color="tab:red", linestyle="--", linewidth=1)
    for segment in report.segments:
        if segment.is_frozen:
            axes[-1].axvspan(segment.index - 0.4, segment.index + 0.4, color="tab:orange", alpha=0.3)
    axes[-1].set_xlabel("segment (orange: frozen frames)")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(Path(path), picture.getvalue())
