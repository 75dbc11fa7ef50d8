"""Where an evaluation is written: a JSON file, and a folder with report, plot and contact sheets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from scail2.data.contact_sheet import contact_sheet
from scail2.errors import InputError
from scail2.evaluation.clips import EvaluationTask
from scail2.evaluation.pictures import plot, sheet_row
from scail2.evaluation.protocols import MeasuredClip
from scail2.evaluation.report import EvaluationReport
from scail2.files.documents import load_json
from scail2.files.ownership import Kind, claimed_file, claimed_folder
from scail2.files.staging import Staging, exchange, set_aside
from scail2.request.paths import refuse_overwriting

REPORT, PLOT = "report.json", "plot.png"
_WRITTEN = (PLOT, *(f"{task.value}.png" for task in EvaluationTask), REPORT)


def is_report(path: Path) -> bool:
    """Whether a file holds the measures of an evaluation, as `EvaluationReport.save` writes them."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        content = load_json(path, dict[str, Any])
    except (InputError, OSError):
        return False
    settings = content.pop("settings", None)
    tasks = [isinstance(task, dict) and "baselines" in task for task in content.values()]
    return isinstance(settings, dict) and {"split", "clips", "seed", "variant"} <= settings.keys() and all(tasks)


MEASURES = Kind("measures", "settings of an evaluation", is_report)
EVALUATIONS = Kind("evaluations", f"{REPORT} of scail2 evaluate", lambda folder: is_report(folder / REPORT))


@dataclass(frozen=True, slots=True)
class EvaluationOutputs:
    """The claimed places of an evaluation's files; measures that were there before move to `superseded/`."""

    file: Staging | None
    folder: Path | None
    timed: bool = False

    def write(self, report: EvaluationReport, shown: Mapping[EvaluationTask, Sequence[MeasuredClip]]) -> None:
        """Writes everything: the folder's files as a whole, then the JSON file.

        Args:
            shown: the clips of each task's contact sheet.
        """
        if self.folder is not None:
            with Staging(self.folder / "evaluation") as staging:
                staging.place.mkdir()
                report.save(staging.place / REPORT, timed=self.timed)
                plot(report.to_json(), staging.place / PLOT)
                for task, clips in shown.items():
                    sheet = contact_sheet([sheet_row(clip) for clip in clips])
                    Image.fromarray(sheet).save(staging.place / f"{task.value}.png")
                older = [
                    name for name in _WRITTEN if (self.folder / name).is_symlink() or (self.folder / name).exists()
                ]
                exchange(staging, self.folder, older, REPORT)
        if self.file is not None:
            target = self.file.target
            report.save(self.file.place, timed=self.timed)
            if target.exists():
                if target.read_bytes() == self.file.place.read_bytes():
                    return
                set_aside(target)
            self.file.publish()


@contextmanager
def claimed_outputs(
    file: Path | None, folder: Path | None, inputs: Iterable[tuple[str, Path]], *, timed: bool = False
) -> Iterator[EvaluationOutputs]:
    """Holds an evaluation's outputs from before the first clip.

    Args:
        file: where the JSON goes; it must be absent, or such a file.
        folder: where report and pictures go: new, empty, or of an evaluation.
        inputs: (name, path) of everything that is read.
        timed: whether the JSON holds wall-clock times, which differ each time.

    Raises:
        InputError: something else is there, an output is an input or lies in one, or somebody else writes there.
    """
    refuse_overwriting([path for path in (file, folder) if path is not None], inputs)
    with ExitStack() as held:
        place = None if folder is None else held.enter_context(claimed_folder(folder, EVALUATIONS))
        staging = None if file is None else held.enter_context(claimed_file(file, MEASURES))
        yield EvaluationOutputs(staging, place, timed)
