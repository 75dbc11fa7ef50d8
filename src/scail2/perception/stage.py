"""The mask stage, for every face: masks as files, the pictures that belong to them, and what preflight found.

::

    masks/reference_mask.png, driving_mask.mkv, tracks.json   the `MaskStore`, to look at, repaint and reuse
    masks/reference.png, additional_1.png …                   the reference pictures as the model gets them
    masks/preflight.json, contact_sheet.png                   what was found before rendering
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scail2.files.storage import names_in, write_json
from scail2.masks import colours_nobody_moves
from scail2.modes import AnimationMode
from scail2.perception.binding import Binding, BindingRequest, bind
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.checks import findings, preflight
from scail2.perception.checks.findings import Finding
from scail2.perception.checks.framing import NOT_CROPPED, CroppedSides, cropped_sides
from scail2.perception.checks.preflight import PreflightReport
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.make import MadeMasks, find_masks
from scail2.perception.preview import write_png
from scail2.perception.reused import MEASURED, reused_masks
from scail2.perception.segmenters.protocol import Progress
from scail2.perception.store import MaskStore
from scail2.perception.store_folder import LABELS
from scail2.perception.tracks import TrackedMasks
from scail2.request.masks import Fit, MaskRequest, Reframe
from scail2.video import SizedFrames, read_image

REPORT, SHEET = "preflight.json", "contact_sheet.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMasks:
    """The stage's result: pictures uint8 (H, W, 3), reference masks uint8 (H, W, 3), driving masks as a `FrameSource`."""

    reference: np.ndarray
    reference_mask: np.ndarray
    driving_mask: SizedFrames
    additional_references: tuple[np.ndarray, ...]
    additional_reference_masks: tuple[np.ndarray, ...]


def make_masks(
    request: MaskRequest,
    driving: DrivingVideo,
    folder: Path,
    *,
    sources: Mapping[str, str],
    progress: Progress | None = None,
) -> PreflightReport:
    """Makes the masks of a run, or takes those it names, and inspects them.

    Args:
        folder: an empty folder, which gets all that is named above.
        sources: names and digests of what the masks depend on.
        progress: called with (driving frames done, driving frames in total).

    Raises:
        InputError: see `scail2.perception.make.find_masks`; what preflight finds is in the report, not raised.
    """
    if request.masks:
        made = reused_masks(request, request.masks, driving, folder, sources)
    else:
        made = find_masks(request, driving, folder, sources=sources, progress=progress)
    report = _inspect(driving, made, folder)
    write_png(folder / "reference.png", made.reference)
    for number, picture in enumerate(made.additional_references, start=1):
        write_png(folder / f"additional_{number}.png", picture)
    # Label maps repeat what the palette files say; they were only needed to inspect the masks.
    for labels in (LABELS, MEASURED):
        shutil.rmtree(folder / labels, ignore_errors=True)
    return report


def inspect_masks(mode: AnimationMode, driving: DrivingVideo, folder: Path, scratch: Path) -> PreflightReport:
    """Preflight over masks as their files show them now, e.g. after edits; rewrites report and contact sheet.

    Label maps go to ``scratch`` meanwhile.
    """
    store = MaskStore(folder)
    store.verify()
    reference, moving = store.measure(scratch)
    binding = bind(reference, moving, BindingRequest())
    masks = BoundMasks(
        mode=mode,
        reference=reference,
        driving=moving,
        binding=binding,
        backgrounds=(reference.background, moving.background),
    )
    made = MadeMasks(
        store=store,
        masks=masks,
        reference=read_image(folder / "reference.png"),
        findings=_unbound_colours(reference, moving, binding),
    )
    return _inspect(driving, made, folder)


def load_masks(folder: Path, mode: AnimationMode) -> StoredMasks:
    """Reads the finished stage back."""
    store = MaskStore(folder)
    found = [folder / name for name in names_in(folder) if re.fullmatch(r"additional_\d+\.png", name)]
    names = sorted(found, key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    return StoredMasks(
        reference=read_image(folder / "reference.png"),
        reference_mask=store.reference_for(mode),
        driving_mask=store.driving_for(mode),
        additional_references=tuple(read_image(path) for path in names),
        additional_reference_masks=store.additional_for(mode),
    )


def _inspect(driving: DrivingVideo, made: MadeMasks, folder: Path) -> PreflightReport:
    masks = made.masks
    notes = (*made.findings, *judge_additional(MaskStore(folder), masks.binding))
    report = preflight.inspect(
        masks, made.reference, driving, notes, _cropped(made.store.info["files"], driving.frames)
    )
    preflight.contact_sheet(masks, made.reference, driving.frames, report, folder / SHEET)
    write_json(folder / REPORT, report.to_json())
    return report


def _cropped(files: Mapping[str, str], frames: SizedFrames) -> CroppedSides:
    """Where fitting to the run's size cut something off picture and video; nowhere where these are not known any more."""
    size, film = (frames.height, frames.width), getattr(frames, "source_info", None)
    if files.get("fit") == Fit.LETTERBOX:
        return NOT_CROPPED
    picture = Path(files.get("reference", ""))
    whole = picture.is_file() and files.get("reframe") != Reframe.AUTO
    return CroppedSides(
        size=size,
        reference=cropped_sides(read_image(picture).shape[:2], size) if whole else frozenset(),
        driving=cropped_sides((film.height, film.width), size) if film is not None else frozenset(),
    )


def _unbound_colours(reference: TrackedMasks, driving: TrackedMasks, binding: Binding) -> tuple[Finding, ...]:
    """Errors where painted masks show a colour that the other side lacks: the network would find nobody for it."""
    return tuple(
        findings.error(
            "unbound_colour",
            f"the {here} mask shows {', '.join(names)}, which the {there} mask does not",
            "paint whoever belongs together in one colour in both masks, and nobody in any other",
        )
        for here, there, masks, numbers in (
            ("driving", "reference", driving, binding.unbound_driving),
            ("reference", "driving", reference, binding.unbound_reference),
        )
        if (names := [masks.tracks[number - 1].name for number in numbers])
    )


def judge_additional(store: MaskStore, binding: Binding) -> list[Finding]:
    """Errors where the mask of an additional reference shows a colour that nobody moves; its background is its own."""
    moved = {pair.slot for pair in binding.pairs}
    return [
        findings.error(
            "unbound_colour",
            f"the mask of additional reference {number} shows {', '.join(names)}, in which nobody is bound",
            "paint it in the colours of the reference mask",
        )
        for number, mask in enumerate(store.additional_for(store.mode), start=1)
        if (names := colours_nobody_moves(mask, moved))
    ]
