"""The mask stage of a run: `masks/` appears whole, with the pictures that belong to the masks and what preflight found.

::

    masks/reference_mask.png, driving_mask.mkv, tracks.json   the `MaskStore`, to look at, repaint and reuse
    masks/reference.png, additional_1.png …                   the reference pictures as the model gets them
    masks/preflight.json, contact_sheet.png                   what was found before rendering
"""

import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
    write_json,
)
from scail2.masks import colours_nobody_moves
from scail2.modes import AnimationMode
from scail2.perception import make as prepare
from scail2.perception.binding import Binding, BindingRequest, bind
from scail2.perception.checks import findings, preflight
from scail2.perception.checks.findings import Finding, Severity
from scail2.perception.segmenters.given import GivenMasks, PictureFrames, nearest_cover
from scail2.perception.store import MaskJob, MaskStore
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.animation import AnimationRequest, Fit, Reframe
from scail2.segments import SegmentPlan
from scail2.video import FrameSource, read_image, resize_cover, resize_letterbox

Progress = Callable[[int, int], None]
REPORT, SHEET, LABELS, TRACKS = "preflight.json", "contact_sheet.png", "labels", "tracks.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskTask:
    """What the stage works from: the request, the driving video at the run's size, the plan, the inputs' hashes."""

    request: AnimationRequest
    driving: FrameSource
    fps: Fraction
    segments: SegmentPlan
    size_step: tuple[int, int]
    source_fps: Any
    sources: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMasks:
    """The stage's result: pictures uint8 (H, W, 3), reference masks uint8 (H, W, 3), driving masks as a `FrameSource`."""

    reference: np.ndarray
    reference_mask: np.ndarray
    driving_mask: FrameSource
    additional: tuple[np.ndarray, ...]
    additional_masks: tuple[np.ndarray, ...]


def make_masks(task: MaskTask, folder: Path, progress: Progress, announce: Callable[[Path], None]) -> dict[str, Any]:
    """Makes ``folder`` (whole or not at all), inspects the job, and returns the preflight report as JSON values.

    ``announce`` notes the finished folder before it gets its name: a run killed in between would otherwise take its own
    masks for somebody's.
    """
    partial = temporary_name(folder)
    partial.mkdir()
    try:
        prepared = _reused(task, partial) if task.request.masks else _made(task, partial, progress)
        report = _inspect(task, prepared, partial)
        _write_picture(partial / "reference.png", prepared.reference)
        for number, picture in enumerate(prepared.additional, start=1):
            _write_picture(partial / f"additional_{number}.png", picture)
        # Label maps repeat what the palette files say; they were only needed to inspect the job.
        for labels in (LABELS, "measured"):
            shutil.rmtree(partial / labels, ignore_errors=True)
        sync_tree(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _set_aside(folder)
    announce(partial)
    move_folder(partial, folder)
    return report


def inspect_again(task: MaskTask, folder: Path) -> dict[str, Any]:
    """Preflight over masks that were edited since they were made; rewrites report and contact sheet."""
    store = MaskStore(folder)
    store.verify()
    labels = temporary_name(folder.with_name(LABELS))
    labels.mkdir()
    try:
        reference, driving = _measured(store, labels)
        picture = read_image(folder / "reference.png")
        binding = bind(reference, driving, BindingRequest())
        backgrounds = (reference.background, driving.background)
        unbound = _unbound_colours(reference, driving, binding)
        prepared = _Prepared(picture, (), reference, driving, binding, backgrounds=backgrounds, findings=unbound)
        return _inspect(task, prepared, folder)
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


def load_masks(folder: Path, mode: AnimationMode) -> RunMasks:
    """Reads the finished stage back."""
    store = MaskStore(folder)
    found = [folder / name for name in names_in(folder) if re.fullmatch(r"additional_\d+\.png", name)]
    names = sorted(found, key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    return RunMasks(
        reference=read_image(folder / "reference.png"),
        reference_mask=store.reference_for(mode),
        driving_mask=store.driving_for(mode),
        additional=tuple(read_image(path) for path in names),
        additional_masks=store.additional_for(mode),
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    reference: np.ndarray
    additional: tuple[np.ndarray, ...]
    reference_masks: TrackedMasks
    driving_masks: TrackedMasks
    binding: Any
    backgrounds: tuple[str | None, str | None] = (None, None)
    findings: tuple[Finding, ...] = ()


def _made(task: MaskTask, partial: Path, progress: Progress) -> Any:
    """Masks from given files, the reference's transparency, or the embedded segmenter."""
    request = task.request
    masks = request.additional_masks or [None] * len(request.additional_references)
    views = [
        prepare.AdditionalView(picture=read_picture(path, request.mode), masks=(mask,) if mask else ())
        for path, mask in zip(request.additional_references, masks, strict=True)
    ]
    inputs = prepare.MaskInputs(
        mode=request.mode,
        reference=read_picture(request.reference, request.mode),
        driving=task.driving,
        fps=task.fps,
        reference_mask=request.reference_mask,
        driving_mask=request.driving_mask,
        additional=tuple(views),
        bind=BindingRequest.parse(request.bind),
        letterbox=request.fit is Fit.LETTERBOX,
        reframe=str(request.reframe),
        fix_polarity=request.fix_polarity,
        sources=task.sources,
    )
    return prepare.prepare(inputs, partial, progress=progress)


def _reused(task: MaskTask, partial: Path) -> _Prepared:
    """Masks of an earlier job, brought to this run's size; their length must be this run's."""
    request = task.request
    if request.reframe is Reframe.AUTO:
        raise InputError("--reframe changes the reference and needs new masks; leave out --masks or --reframe.")
    store = MaskStore(request.masks)
    store.verify()
    if store.total != task.segments.total:
        raise InputError(
            f"The masks in {request.masks} have {store.total} frames, but this run uses {task.segments.total} of the driving "
            "video; make them again for it with `scail2 masks`, or give --frames and --fps as they were made with."
        )
    size = (task.driving.height, task.driving.width)
    reference, driving = _measured(store, partial / "measured")
    bars = request.fit is Fit.LETTERBOX
    reference, driving = _at_size(reference, size, bars, None), _at_size(driving, size, bars, partial / LABELS)
    binding = bind(reference, driving, BindingRequest.parse(request.bind))
    additional = [read_picture(path, request.mode) for path in request.additional_references]
    stored = store.additional_for(request.mode)
    if len(stored) != len(additional):
        raise InputError(
            f"The masks in {request.masks} cover {len(stored)} additional references, but {len(additional)} were given."
        )
    job = MaskJob(
        mode=request.mode,
        reference=reference,
        driving=driving,
        binding=binding,
        fps=task.fps,
        sources=task.sources,
        own_backgrounds=store.own_backgrounds,
    )
    MaskStore.write(partial, job)
    for number, picture in enumerate(stored, start=1):
        _write_picture(partial / f"additional_mask_{number}.png", resize_cover(picture, *size, interpolation="nearest"))
    pictures = tuple(_to_size(request, each, size) for each in (_matching_reference(task, store), *additional))
    return _Prepared(pictures[0], pictures[1:], reference, driving, binding, findings=_made_for_others(task, store))


def _matching_reference(task: MaskTask, store: MaskStore) -> np.ndarray:
    """The picture the masks were made on: the earlier run's (it may have been reframed), if it is of the same file."""
    kept = store.directory / "reference.png"
    if kept.exists() and store.info["sources"].get("reference") == task.sources["reference"]:
        return read_image(kept)
    return read_picture(task.request.reference, task.request.mode)


def _made_for_others(task: MaskTask, store: MaskStore) -> tuple[Finding, ...]:
    """Warnings where the masks were made from other files than this run's."""
    made_from = store.info["sources"]
    return tuple(
        findings.warning(
            "other_source",
            f"the masks in {store.directory} were made for another {name} file than {getattr(task.request, name).name}",
            "look at the contact sheet; make new masks if they do not fit",
        )
        for name in ("reference", "driving")
        if made_from.get(name) not in (None, task.sources[name])
    )


def _measured(store: MaskStore, directory: Path) -> tuple[TrackedMasks, TrackedMasks]:
    """The characters of a store as its files show them now; label maps go to ``directory``, not to memory."""
    picture = PictureFrames(read_image(store.directory / "reference_mask.png"))
    reference = GivenMasks([store.directory / "reference_mask.png"]).segment(picture)
    moving = store.driving_for(store.mode).source
    return reference, GivenMasks([store.driving_path]).segment(moving, directory=directory)


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


def _inspect(task: MaskTask, prepared: Any, folder: Path) -> dict[str, Any]:
    inputs = preflight.PreflightInputs(
        mode=task.request.mode,
        reference=prepared.reference,
        driving=task.driving,
        reference_masks=prepared.reference_masks,
        driving_masks=prepared.driving_masks,
        binding=prepared.binding,
        plan=task.segments,
        size_step=task.size_step,
        fps=task.fps,
        source_fps=task.source_fps,
        backgrounds=prepared.backgrounds,
        notes=(*prepared.findings, *_judge_additional(MaskStore(folder), prepared.binding)),
    )
    report = preflight.inspect(inputs)
    preflight.contact_sheet(inputs, report, folder / SHEET)
    values = report.to_json()
    write_json(folder / REPORT, values)
    return values


def refuse_errors(report: dict[str, Any], masks: Path) -> None:
    """Raises `InputError` with the first error of a stored preflight report."""
    errors = [each for each in report["findings"] if each["severity"] == Severity.ERROR]
    if errors:
        more = f" ({len(errors) - 1} more in {masks / REPORT})" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]['message']}: {errors[0]['fix']}{more}.")


def read_picture(path: Path, mode: AnimationMode) -> np.ndarray:
    """A reference picture uint8 (H, W, 3 or 4); what lies under its transparency becomes plain.

    White in animation mode, where the reference's background is part of the result, black in replacement mode.
    """
    picture = read_image(path)
    if picture.shape[-1] == 3:
        return picture
    alpha = picture[..., 3:].astype(np.float32) / 255
    plain = 255.0 if mode is AnimationMode.ANIMATION else 0.0
    colour = picture[..., :3] * alpha + plain * (1 - alpha)
    return np.concatenate([np.rint(colour).astype(np.uint8), picture[..., 3:]], axis=-1)


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


def _to_size(request: AnimationRequest, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resize = resize_letterbox if request.fit is Fit.LETTERBOX else resize_cover
    return resize(np.ascontiguousarray(picture[..., :3]), *size)


def _set_aside(folder: Path) -> None:
    """Masks that no longer fit the request move to `superseded/`: somebody may have painted on them."""
    if not is_present(folder):
        return
    for version in itertools.count(1):
        target = folder.parent / "superseded" / f"{folder.name}-{version}"
        if not is_present(target):
            move_folder(folder, target)
            return


def _write_picture(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path, format="PNG")
