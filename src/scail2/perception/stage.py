"""The mask stage, for every face: masks as files, the pictures that belong to them, and what preflight found.

::

    masks/reference_mask.png, driving_mask.mkv, tracks.json   the `MaskStore`, to look at, repaint and reuse
    masks/reference.png, additional_1.png …                   the reference pictures as the model gets them
    masks/preflight.json, contact_sheet.png                   what was found before rendering
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.errors import InputError
from scail2.files.storage import digest, hash_file, names_in, write_json
from scail2.masks import colours_nobody_moves
from scail2.modes import AnimationMode
from scail2.perception.binding import Binding, BindingRequest, bind
from scail2.perception.checks import findings, preflight
from scail2.perception.checks.findings import Finding
from scail2.perception.checks.preflight import PreflightReport
from scail2.perception.make import AdditionalView, MaskInputs, PreparedMasks, fit_picture, prepare
from scail2.perception.preview import write_png
from scail2.perception.segmenters.automatic import AutomaticSegmenter
from scail2.perception.segmenters.given import GivenMasks, PictureFrames, nearest_cover
from scail2.perception.segmenters.protocol import VideoSegmenter
from scail2.perception.store import MaskJob, MaskStore
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import Fit, MaskRequest, Reframe
from scail2.segments import SegmentPlan
from scail2.video import SizedFrames, VideoReader, first_frames, probe, read_image, resize_cover
from scail2.video.images import FolderFrames

Progress = Callable[[int, int], None]
REPORT, SHEET, LABELS = "preflight.json", "contact_sheet.png", "labels"


@dataclass(frozen=True, kw_only=True, slots=True)
class DrivingVideo:
    """The driving video as it will be used.

    Attributes:
        frames: at the job's size and rate.
        fps: that rate; ``source_fps`` is the file's own.
        segments: the expected plan.
        size_step: (height, width) steps of the model; (1, 1) where no model was named yet.
    """

    frames: SizedFrames
    fps: Fraction
    source_fps: Any
    segments: SegmentPlan
    size_step: tuple[int, int] = (1, 1)

    @classmethod
    def open(cls, request: MaskRequest) -> Self:
        """The video a request names, at its own size where none is asked for, planned as for the full-size model."""
        info = probe(request.driving)
        size = (request.height or info.height, request.width or info.width)
        reader = VideoReader(request.driving, fps=request.fps, size=size, fit=request.fit)
        frames = first_frames(reader, request.frames)
        return cls(
            frames=frames, fps=reader.fps, source_fps=reader.source_info.fps, segments=SegmentPlan.of(len(frames))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMasks:
    """The stage's result: pictures uint8 (H, W, 3), reference masks uint8 (H, W, 3), driving masks as a `FrameSource`."""

    reference: np.ndarray
    reference_mask: np.ndarray
    driving_mask: SizedFrames
    additional: tuple[np.ndarray, ...]
    additional_masks: tuple[np.ndarray, ...]


def hash_driving(request: MaskRequest) -> str:
    """Hash of the driving video; of a folder of pictures only of those that ``frames`` lets anybody look at."""
    if request.frames is None or not request.driving.is_dir():
        return hash_file(request.driving)
    indices = VideoReader(request.driving, fps=request.fps).source_indices
    if len(indices) <= request.frames:
        return hash_file(request.driving)
    pictures = FolderFrames(request.driving).files(int(indices[request.frames - 1]) + 1)
    return digest([[each.name, hash_file(each)] for each in pictures])


def make_masks(
    request: MaskRequest,
    driving: DrivingVideo,
    folder: Path,
    *,
    sources: Mapping[str, str],
    progress: Progress | None = None,
) -> PreflightReport:
    """Makes the masks of a job and inspects it.

    Args:
        folder: an empty folder, which gets all that is named above.
        sources: names and digests of what the masks depend on.
        progress: called with (driving frames done, driving frames in total).

    Raises:
        InputError: see `scail2.perception.make.prepare`; what preflight finds is in the report, not raised.
    """
    make = _reused if request.masks else _made
    prepared = make(request, driving, folder, sources, progress)
    report = _inspect(request, driving, prepared, folder)
    write_png(folder / "reference.png", prepared.reference)
    for number, picture in enumerate(prepared.additional, start=1):
        write_png(folder / f"additional_{number}.png", picture)
    # Label maps repeat what the palette files say; they were only needed to inspect the job.
    for labels in (LABELS, "measured"):
        shutil.rmtree(folder / labels, ignore_errors=True)
    return report


def inspect_masks(request: MaskRequest, driving: DrivingVideo, folder: Path, scratch: Path) -> PreflightReport:
    """Preflight over masks as their files show them now, e.g. after edits; rewrites report and contact sheet.

    Label maps go to ``scratch`` meanwhile.
    """
    store = MaskStore(folder)
    store.verify()
    reference, moving = _measured(store, scratch)
    binding = bind(reference, moving, BindingRequest())
    prepared = PreparedMasks(
        store=store,
        reference=read_image(folder / "reference.png"),
        reference_masks=reference,
        driving_masks=moving,
        binding=binding,
        findings=_unbound_colours(reference, moving, binding),
        backgrounds=(reference.background, moving.background),
    )
    return _inspect(request, driving, prepared, folder)


def load_masks(folder: Path, mode: AnimationMode) -> StoredMasks:
    """Reads the finished stage back."""
    store = MaskStore(folder)
    found = [folder / name for name in names_in(folder) if re.fullmatch(r"additional_\d+\.png", name)]
    names = sorted(found, key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    return StoredMasks(
        reference=read_image(folder / "reference.png"),
        reference_mask=store.reference_for(mode),
        driving_mask=store.driving_for(mode),
        additional=tuple(read_image(path) for path in names),
        additional_masks=store.additional_for(mode),
    )


def _made(
    request: MaskRequest, driving: DrivingVideo, folder: Path, sources: Mapping[str, str], progress: Progress | None
) -> PreparedMasks:
    """Masks from given files, the reference's transparency, or a segmenter."""
    masks = request.additional_masks or [None] * len(request.additional_references)
    views = [
        AdditionalView(picture=read_picture(path, request.mode), masks=(mask,) if mask else ())
        for path, mask in zip(request.additional_references, masks, strict=True)
    ]
    prompts, reference_prompts = request.prompts
    inputs = MaskInputs(
        mode=request.mode,
        reference=read_picture(request.reference, request.mode),
        driving=driving.frames,
        fps=driving.fps,
        reference_mask=request.reference_mask,
        driving_mask=request.driving_mask,
        additional=tuple(views),
        bind=BindingRequest.parse(request.bind),
        segmenter=_segmenter(request),
        prompts=prompts,
        reference_prompts=reference_prompts,
        letterbox=request.fit is Fit.LETTERBOX,
        reframe=str(request.reframe),
        fix_polarity=request.fix_polarity,
        sources=sources,
        files=_files(request),
    )
    return prepare(inputs, folder, progress=progress)


def _segmenter(request: MaskRequest) -> VideoSegmenter:
    """SAM3 where its weights were named, else the one that knows what the clip shows."""
    if request.sam3 is None:
        return AutomaticSegmenter(accept=request.accept_mask)
    from scail2.perception.segmenters.sam3 import Sam3Segmenter

    with no_loading_bars():
        return Sam3Segmenter.load(request.sam3)


def _files(request: MaskRequest) -> dict[str, str]:
    """What a preview of the masks needs to find again."""
    named = {"reference": request.reference, "driving": request.driving}
    return {name: str(path.resolve()) for name, path in named.items()} | {"fit": str(request.fit)}


def _reused(
    request: MaskRequest, driving: DrivingVideo, folder: Path, sources: Mapping[str, str], progress: Progress | None
) -> PreparedMasks:
    """Masks of an earlier job, brought to this run's size; of a whole clip's the beginning where ``frames`` asks for it."""
    if request.reframe is Reframe.AUTO:
        raise InputError("--reframe changes the reference and needs new masks; leave out --masks or --reframe.")
    store = MaskStore(request.masks)
    store.verify()
    total = driving.segments.total
    begins_alike = request.frames is not None and store.total > total and store.fps == driving.fps
    if store.total != total and not begins_alike:
        raise InputError(
            f"The masks in {request.masks} have {store.total} frames, but this run uses {total} of the "
            "driving video; make them again for it with `scail2 masks`, or give --frames and --fps as they were made with."
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
            f"The masks in {request.masks} cover {len(stored)} additional references, but {len(additional)} were given."
        )
    job = MaskJob(
        mode=request.mode,
        reference=reference,
        driving=moving,
        binding=binding,
        fps=driving.fps,
        sources=sources,
        files=_files(request),
        own_backgrounds=store.own_backgrounds,
    )
    written = MaskStore.write(folder, job)
    for number, picture in enumerate(stored, start=1):
        write_png(folder / f"additional_mask_{number}.png", resize_cover(picture, *size, interpolation="nearest"))
    pictures = (_matching_reference(request, sources, store), *additional)
    fitted = [np.ascontiguousarray(fit_picture(each, size, letterbox=bars)[..., :3]) for each in pictures]
    return PreparedMasks(
        store=written,
        reference=fitted[0],
        additional=tuple(fitted[1:]),
        reference_masks=reference,
        driving_masks=moving,
        binding=binding,
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
    picture = PictureFrames(read_image(store.directory / "reference_mask.png"))
    reference = GivenMasks([store.directory / "reference_mask.png"]).segment(picture)
    moving = first_frames(store.driving_for(store.mode).source, count)
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


def _inspect(request: MaskRequest, driving: DrivingVideo, prepared: PreparedMasks, folder: Path) -> PreflightReport:
    inputs = preflight.PreflightInputs(
        mode=request.mode,
        reference=prepared.reference,
        driving=driving.frames,
        reference_masks=prepared.reference_masks,
        driving_masks=prepared.driving_masks,
        binding=prepared.binding,
        plan=driving.segments,
        size_step=driving.size_step,
        fps=driving.fps,
        source_fps=driving.source_fps,
        backgrounds=prepared.backgrounds,
        notes=(*prepared.findings, *_judge_additional(MaskStore(folder), prepared.binding)),
    )
    report = preflight.inspect(inputs)
    preflight.contact_sheet(inputs, report, folder / SHEET)
    write_json(folder / REPORT, report.to_json())
    return report


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
