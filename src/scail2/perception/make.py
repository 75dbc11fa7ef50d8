"""The mask stage of a job: pictures and whatever the user gave about masks in, a checked `MaskStore` out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.masks import THRESHOLD, BindingSlot
from scail2.modes import AnimationMode
from scail2.perception.binding import Binding, BindingRequest, bind
from scail2.perception.checks import findings, framing, validate
from scail2.perception.checks.findings import Finding
from scail2.perception.checks.framing import FramingReport
from scail2.perception.segmenters.given import GivenMasks, PictureFrames, from_alpha
from scail2.perception.segmenters.protocol import VideoSegmenter
from scail2.perception.store import MaskJob, MaskStore
from scail2.perception.tracks import ArrayLabels, TrackedMasks, TrackRecorder
from scail2.request.masks import Prompts
from scail2.video import SizedFrames, read_image, resize_cover, resize_letterbox
from scail2.video.images import is_film


@dataclass(frozen=True, kw_only=True)
class AdditionalView:
    """One more reference picture uint8 (H, W, 3 or 4) of the same characters, with its mask files if there are any."""

    picture: np.ndarray
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MaskInputs:
    """What the mask stage needs.

    Attributes:
        mode: decides the backgrounds.
        reference: the picture as it is in its file, uint8 (H, W, 3 or 4); it is resized to the driving video's size.
        driving: the driving video at the run's size and rate.
        fps: its rate.
        reference_mask, driving_mask: files, see `GivenMasks`; empty: the reference's own alpha, else the segmenter.
        additional: further reference views.
        bind: what was asked about binding.
        segmenter: finds characters where no file was given; None for the embedded one.
        prompts, reference_prompts: for that segmenter.
        letterbox: whether pictures are fitted with bars instead of being cropped.
        reframe: "auto" resamples the reference to the driving character's size.
        fix_polarity: repaint given palette masks whose background contradicts the mode instead of refusing them.
        sources: names and digests of the files (and settings) the masks depend on.
        files: paths to remember for previews, see `MaskJob`.
    """

    mode: AnimationMode
    reference: np.ndarray
    driving: SizedFrames
    fps: Fraction
    reference_mask: tuple[Path, ...] = ()
    driving_mask: tuple[Path, ...] = ()
    additional: tuple[AdditionalView, ...] = ()
    bind: BindingRequest = field(default_factory=BindingRequest)
    segmenter: VideoSegmenter | None = None
    prompts: Prompts | None = None
    reference_prompts: Prompts | None = None
    letterbox: bool = False
    reframe: str = "off"
    fix_polarity: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PreparedMasks:
    """The stage's outcome.

    Attributes:
        store: the masks on disk.
        reference, additional_references: the pictures that belong to them, uint8 (H, W, 3), at the run's size, reframed if asked.
        reference_masks, driving_masks: who is where.
        binding: who moves whom.
        framing: scale and cut-off, measured after reframing; None where the masks were made earlier.
        findings: what was done to the inputs (reframed, snapped, repainted).
        backgrounds: backgrounds that given palette masks were painted on.
    """

    store: MaskStore
    reference: np.ndarray
    additional_references: tuple[np.ndarray, ...] = ()
    reference_masks: TrackedMasks
    driving_masks: TrackedMasks
    binding: Binding
    framing: FramingReport | None = None
    findings: tuple[Finding, ...] = ()
    backgrounds: tuple[str | None, str | None] = (None, None)


def fit_picture(picture: np.ndarray, size: tuple[int, int], *, letterbox: bool = False) -> np.ndarray:
    """A picture uint8 (H, W, C) at the run's size (height, width): cover and centre crop, or letterbox."""
    return (resize_letterbox if letterbox else resize_cover)(picture, *size)


def prepare(
    inputs: MaskInputs, directory: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> PreparedMasks:
    """Makes, binds, checks and stores the masks of a job.

    Args:
        inputs: see `MaskInputs`.
        directory: the store; label maps go to ``directory/labels``.
        progress: called with (driving frames done, driving frames in total).

    Raises:
        InputError: unusable mask files, nobody found, low confidence of the embedded segmenter, an impossible binding, or
            backgrounds that contradict the mode.
    """
    directory = Path(directory)
    size = (inputs.driving.height, inputs.driving.width)
    picture, reference = _reference(inputs.reference, inputs.reference_mask, inputs, size)
    driving = _driving(inputs, directory / "labels", progress)
    notes = []
    if inputs.fix_polarity:
        notes += _repainted(inputs.mode, reference, driving)
    else:
        findings.refuse(validate.check_polarity(inputs.mode, reference.background, driving.background))
    binding = bind(reference, driving, inputs.bind)
    report = framing.check(reference, driving, binding)
    if inputs.reframe == "auto" and not _agrees(report.reframe_scale):
        picture, reference, note = _reframed(picture, reference, report)
        notes.append(note)
        report = framing.check(reference, driving, binding)
    views = [_view(view, inputs, size, reference, binding) for view in inputs.additional]
    job = MaskJob(
        mode=inputs.mode,
        reference=reference,
        driving=driving,
        binding=binding,
        fps=inputs.fps,
        sources=inputs.sources,
        files=inputs.files,
        additional=[(masks, slots) for _, masks, slots in views],
        own_backgrounds=[masks.background for _, masks, _ in views],
    )
    return PreparedMasks(
        store=MaskStore.write(directory, job),
        reference=picture,
        additional_references=tuple(each for each, _, _ in views),
        reference_masks=reference,
        driving_masks=driving,
        binding=binding,
        framing=report,
        findings=tuple(notes),
        backgrounds=(None, None) if inputs.fix_polarity else (reference.background, driving.background),
    )


def _segmenter(inputs: MaskInputs) -> VideoSegmenter:
    if inputs.segmenter is not None:
        return inputs.segmenter
    from scail2.perception.segmenters.automatic import AutomaticSegmenter

    return AutomaticSegmenter()


def _reference(
    picture: np.ndarray, files: Sequence[Path], inputs: MaskInputs, size: tuple[int, int]
) -> tuple[np.ndarray, TrackedMasks]:
    """The picture at the run's size without alpha, and its characters."""
    fitted = fit_picture(picture, size, letterbox=inputs.letterbox)
    rgb = np.ascontiguousarray(fitted[..., :3])
    if files:
        given = GivenMasks(files, original=picture.shape[:2], letterbox=inputs.letterbox)
        return rgb, given.segment(PictureFrames(rgb), _count(inputs.reference_prompts))
    if (alpha := from_alpha(fitted)) is not None:
        return rgb, alpha
    return rgb, _segmenter(inputs).segment(PictureFrames(rgb), inputs.reference_prompts)


def _driving(inputs: MaskInputs, directory: Path, progress: Callable[[int, int], None] | None) -> TrackedMasks:
    if inputs.driving_mask:
        info = getattr(inputs.driving, "source_info", None)
        original = (info.height, info.width) if info is not None else None
        given = GivenMasks(inputs.driving_mask, original=original, letterbox=inputs.letterbox, fps=inputs.fps)
        return given.segment(inputs.driving, _count(inputs.prompts), directory=directory, progress=progress)
    return _segmenter(inputs).segment(inputs.driving, inputs.prompts, directory=directory, progress=progress)


def _count(prompts: Prompts | None) -> Prompts | None:
    """What prompts say to mask files: only how many characters to expect."""
    return Prompts(characters=prompts.characters) if prompts is not None and prompts.characters else None


def _repainted(mode: AnimationMode, reference: TrackedMasks, driving: TrackedMasks) -> list[Finding]:
    return [
        findings.warning("polarity", f"{each.message}; it was repainted", "paint it so, or choose the other mode")
        for each in validate.check_polarity(mode, reference.background, driving.background)
    ]


def _agrees(scale: float) -> bool:
    return 1 / 1.03 < scale < 1.03


def _reframed(
    picture: np.ndarray, reference: TrackedMasks, report: FramingReport
) -> tuple[np.ndarray, TrackedMasks, Finding]:
    done = framing.reframe(picture, reference.labels.labels(0, 1)[0], report.reframe_scale, report.anchor)
    masks = _with_labels(reference, done.labels)
    border = f", {done.invented_share:.0%} of it is continued border" if done.invented_share > 0.005 else ""
    note = findings.info("reframed", f"the reference picture was resampled by {report.reframe_scale:.2f}{border}")
    return done.picture, masks, note


def _with_labels(masks: TrackedMasks, labels: np.ndarray) -> TrackedMasks:
    """A one-frame clip with other label maps uint8 (H, W), tracks measured again."""
    recorder = TrackRecorder(None, height=labels.shape[0], width=labels.shape[1])
    confidence = np.nan_to_num(np.stack([track.confidence for track in masks.tracks], axis=1))
    recorder.add(labels[None], confidence)
    renewed = recorder.finish(
        masks.origin,
        slots=[track.slot for track in masks.tracks],
        names=[track.name for track in masks.tracks],
        background=masks.background,
        warnings=masks.warnings,
    )
    return replace(renewed, labels=ArrayLabels(labels[None]))


def _all_white(files: Sequence[Path]) -> bool:
    """Whether a picture's mask is one palette picture that is white everywhere: all of it is to be seen."""
    if len(files) != 1 or not files[0].is_file() or is_film(files[0]):
        return False
    mask = read_image(files[0])
    return bool((mask > THRESHOLD).all())


def _nobody(size: tuple[int, int]) -> TrackedMasks:
    """One frame without characters on white."""
    recorder = TrackRecorder(None, height=size[0], width=size[1])
    recorder.add(np.zeros((1, *size), np.uint8))
    return recorder.finish("given palette", background="white")


def _view(
    view: AdditionalView,
    inputs: MaskInputs,
    size: tuple[int, int],
    reference: TrackedMasks,
    binding: Binding,
) -> tuple[np.ndarray, TrackedMasks, dict[int, BindingSlot]]:
    """One more reference view, its characters, and their colours: those of the reference, in the same order.

    A given palette mask keeps its own background; one that is all white shows a scene and no character.
    """
    if _all_white(view.masks):
        scene = np.ascontiguousarray(fit_picture(view.picture, size, letterbox=inputs.letterbox)[..., :3])
        return scene, _nobody(size), {}
    try:
        picture, masks = _reference(view.picture, view.masks, replace(inputs, reference_prompts=None), size)
    except InputError as problem:
        raise InputError(f"additional reference: {problem}") from problem
    if masks.tracks and all(track.slot is not None for track in masks.tracks):
        return picture, masks, {track.number: track.slot for track in masks.tracks if track.first_frame >= 0}
    shown = binding.reference_slots()
    order = sorted(shown, key=lambda number: reference.tracks[number - 1].centre_x(0))
    seen = sorted((t for t in masks.tracks if t.first_frame >= 0), key=lambda track: track.centre_x(0))
    if len(seen) != len(order):
        raise InputError(
            f"an additional reference shows {len(seen)} characters but the reference binds {len(order)}: give it a palette "
            "mask with the same colours."
        )
    return picture, masks, {track.number: shown[number] for track, number in zip(seen, order, strict=True)}
