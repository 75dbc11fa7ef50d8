"""Arms of an experiment, each trained with several seeds: measured once on the same clips, compared in one table.

FOLDER/measures/ARM-SEED.json holds the clips' measures of one training, FOLDER/measures/start.json those of what all began with.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scail2.evaluation.comparison import Interval, paired_interval
from scail2.evaluation.protocols import evaluate_pipeline
from scail2.files.staging import atomic_file

START = "start"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ArmMeasures:
    """What is measured, and where it lies.

    Attributes:
        folder: of the experiment.
        names: measures of a clip, as in `evaluate`'s report.
        digits: after the point, in the table.
    """

    folder: Path
    names: tuple[str, ...]
    digits: int = 3

    def place(self, training: str) -> Path:
        """The measures of a training, named ARM-SEED, or of the start."""
        return self.folder / "measures" / f"{training}.json"

    def measure(self, training: str, pipe: Any, split: str, clips: int, tasks: Sequence[str], **shape: Any) -> float:
        """Writes a training's measures of every clip; returns the mean of the first one."""
        pipe.set_progress_bar_config(disable=True)
        report = evaluate_pipeline(pipe, split, clips, tasks=list(tasks), **shape)
        rows = [{name: each[name] for name in self.names} for task in tasks for each in report.tasks[task].outputs]
        place = self.place(training)
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as file:
            file.write(json.dumps(rows, indent=1).encode())
        return float(np.nanmean([row[self.names[0]] for row in rows]))

    def known(self, arm: str) -> list[dict[str, np.ndarray]]:
        """Per training, measure -> values of the clips; nothing where none was measured."""
        paths = sorted(self.folder.glob(f"measures/{arm}-[0-9]*.json")) or sorted(
            self.folder.glob(f"measures/{arm}.json")
        )
        stored = [json.loads(path.read_text()) for path in paths]
        return [{name: np.array([row[name] for row in rows], float) for name in self.names} for rows in stored]

    def write_table(self, comparisons: Iterable[tuple[str, str]]) -> str:
        """Mean differences of arms with 95 % intervals over clips and trainings: FOLDER/table.json and table.md, and its text.

        Comparisons with an arm that was not measured are left out.
        """
        rows = []
        for arm, other in comparisons:
            ours, theirs = self.known(arm), self.known(other)
            count = len(ours) if other == START else min(len(ours), len(theirs))
            if not count or not theirs:
                continue
            row: dict[str, Any] = {"arm": arm, "against": other, "trainings": count}
            for name in self.names:
                differences = np.stack([ours[n][name] - theirs[n % len(theirs)][name] for n in range(count)])
                row[name] = dataclasses.asdict(paired_interval(differences))
            rows.append(row)
        text = self._markdown(rows)
        for name, content in (("table.json", json.dumps(rows, indent=1)), ("table.md", text + "\n")):
            with atomic_file(self.folder / name) as file:
                file.write(content.encode())
        return text

    def _markdown(self, rows: list[dict[str, Any]]) -> str:
        lines = [
            "| arm | against | trainings | " + " | ".join(self.names) + " |",
            "|---" * (3 + len(self.names)) + "|",
        ]
        for row in rows:
            cells = [Interval(**row[name]).told(self.digits) for name in self.names]
            lines.append(f"| {row['arm']} | {row['against']} | {row['trainings']} | " + " | ".join(cells) + " |")
        return "\n".join(lines)
