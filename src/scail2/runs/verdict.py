"""The verdict on a run, with the command that would help: read from its files, so also by whoever only looks at it."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scail2.files.documents import DocumentError
from scail2.files.storage import is_present
from scail2.request.animation import AnimationRequest, DriftCorrection
from scail2.runs.sealed import read_sealed
from scail2.runs.segment_record import SegmentRecord

if TYPE_CHECKING:
    from scail2.drift.verdict import Verdict, Worst

DRIFT = "drift.json"
# Causes of a drift that matching colours takes away.
_OF_COLOUR = ("colour", "contrast")


def stored_verdict(folder: Path, request: AnimationRequest, records: Mapping[int, SegmentRecord]) -> "Verdict | None":
    """What the measures in a run's ``drift.json`` come to; None before that is written.

    Args:
        records: those of the finished segments; a new seed is one that they did not have.

    Raises:
        DocumentError: the file does not hold what a run wrote.
    """
    if not is_present(folder / DRIFT):
        return None
    from scail2.drift.measure import DriftReport
    from scail2.drift.verdict import judge

    values = read_sealed(folder / DRIFT, dict[str, Any], nonfinite=True)
    try:
        found = judge(DriftReport.from_json(values))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DocumentError(f"{folder / DRIFT} does not hold the measures of a run.") from error
    helped = [
        replace(each, help=_help(each, folder, request, records)) if each.is_bad else each for each in found.measured
    ]
    return replace(found, measured=tuple(helped))


def _help(worst: "Worst", folder: Path, request: AnimationRequest, records: Mapping[int, SegmentRecord]) -> str:
    from scail2.drift.verdict import Measure

    run = shlex.quote(str(folder))
    uncorrected = request.drift_correction is DriftCorrection.OFF
    if worst.measure is Measure.DRIFT and worst.cause in _OF_COLOUR and uncorrected:
        return f"the run's own command again with --run-dir {run} --drift-correction reinhard-first"
    if worst.measure is Measure.SEAM_COLOUR and uncorrected:
        return f"the run's own command again with --run-dir {run} --drift-correction reinhard-previous"
    record = records.get(worst.segment)
    seed = (request.seed if record is None or record.seed is None else record.seed) + 1
    # What continues from a segment is continued from its last frames, so it has to follow.
    cascade = " --cascade" if any(index > worst.segment for index in records) else ""
    again = f"scail2 rerender {run} --segment {worst.segment} --seed {seed}{cascade}"
    if worst.measure is Measure.MOTION_ERROR:
        masks = shlex.quote(str(folder / "masks"))
        return f"look at who is where with scail2 masks preview {masks}; if that is right, {again}"
    return again
