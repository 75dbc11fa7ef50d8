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
from fractions import Fraction
from pathlib import Path

import numpy as np

from scail2.errors import InputError
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
from scail2.perception.make import MadeMasks, files_to_show, find_masks, fit_picture, read_picture
from scail2.perception.preview import write_png
from scail2.perception.segmenters.given import GivenMasks, nearest_cover
from scail2.perception.segmenters.protocol import Progress
from scail2.perception.store import MaskStore
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import Fit, MaskRequest, Reframe
from scail2.video import SizedFrames, first_frames, read_image, resize_cover

REPORT, SHEET, LABELS = "preflight.json", "contact_sheet.png", "labels"


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
        made = _reused(request, request.masks, driving, folder, sources)
    else:
        made = find_masks(request, driving, folder, sources=sources, progress=progress)
    report = _inspect(driving, made, folder)
    write_png(folder / "reference.png", made.reference)
    for number, picture in enumerate(made.additional_references, start=1):
        write_png(folder / f"additional_{number}.png", picture)
    # Label maps repeat what the palette files say; they were only needed to inspect the masks.
    for labels in (LABELS, "measured"):
        shutil.rmtree(folder / labels, ignore_errors=True)
    return report


def inspect_masks(mode: AnimationMode, driving: DrivingVideo, folder: Path, scratch: Path) -> PreflightReport:
    """Preflight over masks as their files show them now, e.g. after edits; rewrites report and contact sheet.

    Label maps go to ``scratch`` meanwhile.
    """
    store = MaskStore(folder)
    store.verify()
    reference, moving = _measured(store, scratch)
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


def _shown(fps: Fraction) -> str:
    return f"{float(fps):.6g}"


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


def _reused(
    request: MaskRequest, masks: Path, driving: DrivingVideo, folder: Path, sources: Mapping[str, str]
) -> MadeMasks:
    """Masks that were made earlier, brought to this run's size; of a whole clip's the beginning where ``frames`` asks for it."""
    if request.reframe is Reframe.AUTO:
        raise InputError("--reframe changes the reference and needs new masks; leave out --masks or --reframe.")
    store = MaskStore(masks)
    store.verify()
    total = driving.segments.total
    begins_alike = request.frames is not None and store.total > total
    if store.fps != driving.fps or (store.total != total and not begins_alike):
        raise InputError(
            f"The masks in {masks} have {store.total} frames at {_shown(store.fps)} a second, but this run uses {total} of the "
            f"driving video at {_shown(driving.fps)}; make them again for it with `scail2 masks`, or give --frames and --fps "
            "as they were made with."
        )
    size = (driving.frames.height, driving.frames.width)
    reference, moving = _measured(store, folder / "measured", total)
    bars = request.fit is Fit.LETTERBOX
    reference, moving = _at_size(reference, size, bars, None), _at_size(moving, size, bars, folder / LABELS)
    binding = bind(reference, moving, BindingRequest.parse(request.bind))
    additional = [read_picture(path, request.mode) for path in request.additional_references]
    stored = store.additional_for(request.mode)
    if len(stored) != len(additional):
        raise InputError(
            f"The masks in {masks} cover {len(stored)} additional references, but {len(additional)} were given."
        )
    bound = BoundMasks(
        mode=request.mode,
        reference=reference,
        driving=moving,
        binding=binding,
        own_backgrounds=tuple(store.own_backgrounds),
    )
    written = MaskStore.write(folder, bound, fps=driving.fps, sources=sources, files=files_to_show(request))
    for number, picture in enumerate(stored, start=1):
        write_png(folder / f"additional_mask_{number}.png", resize_cover(picture, *size, interpolation="nearest"))
    pictures = (_matching_reference(request, sources, store), *additional)
    fitted = [np.ascontiguousarray(fit_picture(each, size, letterbox=bars)[..., :3]) for each in pictures]
    return MadeMasks(
        store=written,
        masks=bound,
        reference=fitted[0],
        additional_references=tuple(fitted[1:]),
        findings=_made_for_others(request, sources, store),
    )


def _matching_reference(request: MaskRequest, sources: Mapping[str, str], store: MaskStore) -> np.ndarray:
    """The picture the masks were made on: the earlier run's (it may have been reframed), if it is of the same file."""
    kept = store.directory / "reference.png"
    if kept.exists() and store.info["sources"].get("reference") == sources["reference"]:
        return read_image(kept)
    return read_picture(request.reference, request.mode)


def _made_for_others(request: MaskRequest, sources: Mapping[str, str], store: MaskStore) -> tuple[Finding, ...]:
    """Warnings where the masks were made from other files than this run's."""
    made_from = store.info["sources"]
    return tuple(
        findings.warning(
            "other_source",
            f"the masks in {store.directory} were made for another {name} file than {getattr(request, name).name}",
            "look at the contact sheet; make new masks if they do not fit",
        )
        for name in ("reference", "driving")
        if made_from.get(name) not in (None, sources[name])
    )


def _measured(store: MaskStore, directory: Path, count: int | None = None) -> tuple[TrackedMasks, TrackedMasks]:
    """The characters of a store as its files show them now, in its first ``count`` frames; label maps go to ``directory``."""
    moving = first_frames(store.driving_for(store.mode).source, count)
    return store.still(), GivenMasks([store.driving_path]).segment(moving, directory=directory)


def _at_size(masks: TrackedMasks, size: tuple[int, int], bars: bool, directory: Path | None) -> TrackedMasks:
    """The same tracks at another size (nearest pixel), unchanged when they have it."""
    if (masks.height, masks.width) == size:
        return masks
    recorder = TrackRecorder(directory, height=size[0], width=size[1])
    for _, labels in masks.windows():
        recorder.add(nearest_cover(labels, *size, letterbox=bars))
    return recorder.finish(
        masks.origin,
        slots=[track.slot for track in masks.tracks],
        names=[track.name for track in masks.tracks],
        background=masks.background,
        warnings=masks.warnings,
    )


def _inspect(driving: DrivingVideo, made: MadeMasks, folder: Path) -> PreflightReport:
    masks = made.masks
    notes = (*made.findings, *_judge_additional(MaskStore(folder), masks.binding))
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


def _judge_additional(store: MaskStore, binding: Binding) -> list[Finding]:
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
