"""Results of an evaluation: means over clips beside the baselines, as JSON and as a table."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from scail2.files.staging import atomic_file

# Rows of the printed table; the JSON has every measure.
_ROWS = {
    "character_psnr": "character PSNR, dB",
    "character_ssim": "character SSIM",
    "head_psnr": "head PSNR, dB",
    "hand_psnr": "hand PSNR, dB",
    "background_psnr": "background PSNR, dB",
    "frame_difference_correlation": "motion correlation",
    "limb_iou": "limb IoU",
    "sharpness": "sharpness",
    "edge_f1": "edge F1",
    "eyes_found": "eyes found",
    "identity": "identity",
    "seconds_per_clip": "seconds a clip",
}


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """One task: measures per clip of the output and of each baseline."""

    outputs: Sequence[Mapping[str, float]]
    baselines: Mapping[str, Sequence[Mapping[str, float]]]
    seconds: Sequence[float]
    height: int
    width: int
    extra: Mapping[str, float] = field(default_factory=dict)  # measures of the whole set (FVD)

    def to_json(self) -> dict[str, Any]:
        """Means by name; `baselines` holds the same names for each baseline."""
        size = {"width": self.width, "height": self.height}
        seconds = {"seconds_per_clip": float(np.mean(self.seconds))}
        copied = {"seconds_per_clip": 0.0, **size}
        return {
            **_means(self.outputs),
            **_finite(self.extra),
            **seconds,
            **size,
            "clips": len(self.outputs),
            "baselines": {name: {**_means(rows), **copied} for name, rows in self.baselines.items()},
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """All tasks of one evaluation and the settings that repeat it."""

    tasks: Mapping[str, TaskReport]
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """`{task: {measure: mean, …, "baselines": {…}}, …, "settings": {…}}`; null where nothing could be measured."""
        return {**{name: task.to_json() for name, task in self.tasks.items()}, "settings": dict(self.settings)}

    def save(self, path: str | Path, *, timed: bool = False) -> Path:
        """Writes the JSON. Equal results give equal bytes, so wall-clock times are null unless `timed`."""
        content = self.to_json()
        if not timed:
            for task in self.tasks:
                content[task]["seconds_per_clip"] = None
        with atomic_file(path) as file:
            file.write(json.dumps(content, indent=1).encode())
        return Path(path)

    def table(self) -> Table:
        """The main measures of each task, beside those of its baselines."""
        table = Table(title=f"{self.settings.get('clips')} clips a task, {self.settings.get('split')} split")
        baselines = list(dict.fromkeys(name for task in self.tasks.values() for name in task.baselines))
        for title in ("", "output", *(name.replace("_", " ") for name in baselines)):
            table.add_column(title, justify="right" if title else "left")
        for name, task in self.tasks.items():
            means = task.to_json()
            columns = [means, *(means["baselines"].get(each, {}) for each in baselines)]
            table.add_row(name, style="bold")
            for measure, label in _ROWS.items():
                cells = [_cell(column.get(measure)) for column in columns]
                table.add_row(f"  {label}", *cells)
            table.add_section()
        return table


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Mean of every measure over the clips it applies to."""
    names = rows[0] if rows else ()
    return _finite({name: _mean([row[name] for row in rows]) for name in names})


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """nan is not JSON: null instead."""
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
