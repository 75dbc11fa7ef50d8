"""The mask stage as a run keeps it: its folder appears whole or not at all, and what is the stage's own stays as it was."""

import itertools
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.files.documents import DocumentError, decode
from scail2.files.storage import (
    digest,
    hash_file,
    is_present,
    move_folder,
    names_in,
    read_json,
    sync_tree,
    temporary_name,
)
from scail2.modes import AnimationMode
from scail2.perception.checks.findings import Severity
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.segmenters.protocol import Progress
from scail2.perception.stage import REPORT, inspect_masks, make_masks
from scail2.perception.store import MaskStore
from scail2.perception.store_folder import LABELS
from scail2.request.masks import MaskRequest

TRACKS = "tracks.json"


def replace_masks(
    request: MaskRequest,
    driving: DrivingVideo,
    folder: Path,
    *,
    sources: Mapping[str, str],
    progress: Progress,
    announce: Callable[[Path], None],
) -> dict[str, Any]:
    """Makes ``folder`` (whole or not at all) and returns the preflight report as JSON values.

    Older masks move to ``superseded/``. ``announce`` notes the finished folder before it gets its name: a run killed in
    between would otherwise take its own masks for somebody's. ``sources`` are the digests of what the masks depend on.
    """
    partial = temporary_name(folder)
    partial.mkdir()
    try:
        report = make_masks(request, driving, partial, sources=sources, progress=progress)
        sync_tree(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    set_masks_aside(folder)
    announce(partial)
    move_folder(partial, folder)
    return report.to_json()


def inspect_again(mode: AnimationMode, driving: DrivingVideo, folder: Path) -> dict[str, Any]:
    """Preflight over masks that were edited since they were made; rewrites report and contact sheet."""
    labels = temporary_name(folder.with_name(LABELS))
    labels.mkdir()
    try:
        return inspect_masks(mode, driving, folder, labels).to_json()
    finally:
        shutil.rmtree(labels, ignore_errors=True)


def derived_hashes(folder: Path) -> dict[str, str]:
    """Hashes of what the stage made besides the masks, by name: pictures, report and track list are nobody's to edit.

    Of the track list only what was made: freezing the masks marks it.
    """
    made = [name for name in names_in(folder) if re.fullmatch(r"(reference|additional_\d+|contact_sheet)\.png", name)]
    hashes = {name: hash_file(folder / name) for name in made}
    if is_present(folder / REPORT):
        hashes[REPORT] = hash_file(folder / REPORT)
    tracks = MaskStore(folder).info
    return hashes | {TRACKS: digest({name: tracks[name] for name in tracks.keys() - {"frozen", "content_hash"}})}


@dataclass(frozen=True, slots=True)
class _Told:
    severity: Severity
    message: str
    fix: str


def read_report(folder: Path) -> dict[str, Any] | None:
    """The stored preflight report as JSON values, None when it is missing or damaged: it can be made again."""
    try:
        report = read_json(folder / REPORT, dict[str, Any], nonfinite=True)
        decode(report.get("facts"), dict[str, Any], folder / REPORT)
        decode(report.get("findings"), list[_Told], folder / REPORT, unknown=True)
    except (FileNotFoundError, DocumentError):
        return None
    return report


class RefusedPlanError(InputError):
    """A plan that preflight refuses; ``plan`` is what plan.json would hold."""

    def __init__(self, message: str, plan: dict[str, Any]):
        super().__init__(message)
        self.plan = plan


def refuse_errors(plan: dict[str, Any]) -> None:
    """Raises `RefusedPlanError` with the first error that preflight found."""
    errors = [each for each in plan["preflight"]["findings"] if each["severity"] == Severity.ERROR]
    if errors:
        more = f" ({len(errors) - 1} more: see `scail2 plan`)" if len(errors) > 1 else ""
        raise RefusedPlanError(f"{errors[0]['message']}: {errors[0]['fix']}{more}.", plan)


def set_masks_aside(folder: Path) -> None:
    """Masks that no longer fit the request move to `superseded/`: somebody may have painted on them."""
    if not is_present(folder):
        return
    for version in itertools.count(1):
        target = folder.parent / "superseded" / f"{folder.name}-{version}"
        if not is_present(target):
            move_folder(folder, target)
            return
