"""Making masks: pictures, video and whatever the user gave about masks in, a checked `MaskStore` out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.masks import THRESHOLD
from scail2.modes import AnimationMode
from scail2.perception.binding import Binding, BindingRequest, bind
from scail2.perception.bound_masks import BoundMasks, View
from scail2.perception.checks import findings, framing, validate
from scail2.perception.checks.findings import Finding
from scail2.perception.checks.framing import FramingReport
from scail2.perception.checks.reframing import REFRAME_LIMIT, find_window, reframe
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.segmenters.asked import segmenter_for
from scail2.perception.segmenters.detail import with_detail
from scail2.perception.segmenters.given import GivenMasks, PictureFrames, from_alpha
from scail2.perception.segmenters.protocol import Progress, VideoSegmenter
from scail2.perception.segmenters.snapping import MATTE_LEVEL
from scail2.perception.store import MaskStore
from scail2.perception.tracks import ArrayLabels, TrackedMasks, TrackRecorder
from scail2.request.masks import Fit, MaskRequest, Prompts, Reframe
from scail2.video import read_image, resize_cover, resize_letterbox
from scail2.video.images import is_film


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeMasks:
    """Masks that were made.

    Attributes:
        store: the masks on disk.
        masks: the same as they were found.
        reference, additional_references: the pictures that belong to them, uint8 (H, W, 3), at the run's size, reframed
            if asked.
        framing: scale and cut-off, measured after reframing; None where the masks were made earlier.
        findings: what was done to the inputs (reframed, snapped, repainted).
    """

    store: MaskStore
    masks: BoundMasks
    reference: np.ndarray
    additional_references: tuple[np.ndarray, ...] = ()
    framing: FramingReport | None = None
    findings: tuple[Finding, ...] = ()


def fit_picture(picture: np.ndarray, size: tuple[int, int], *, letterbox: bool = False) -> np.ndarray:
    """A picture uint8 (H, W, C) at the run's size (height, width): cover and centre crop, or letterbox."""
    return (resize_letterbox if letterbox else resize_cover)(picture, *size)


def read_picture(path: Path, mode: AnimationMode) -> np.ndarray:
    """A reference picture uint8 (H, W, 3), or (H, W, 4) where its transparency says who is a character.

    What lies under it becomes plain: white in animation mode, where the reference's background is part of the result, black in
    replacement mode.
    """
    picture = read_image(path)
    if picture.shape[-1] == 3:
        return picture
    alpha = picture[..., 3:].astype(np.float32) / 255
    plain = 255.0 if mode is AnimationMode.ANIMATION else 0.0
    colour = picture[..., :3] * alpha + plain * (1 - alpha)
    plain_picture = np.rint(colour).astype(np.uint8)
    if picture[..., 3].min() > MATTE_LEVEL:  # decided before bars are added, which are transparent everywhere
        return plain_picture
    return np.concatenate([plain_picture, picture[..., 3:]], axis=-1)


def files_to_show(request: MaskRequest) -> dict[str, str]:
    """What a preview of the masks, and a later look at their framing, need to find again."""
    named = {"reference": request.reference, "driving": request.driving}
    settings = {"fit": str(request.fit), "reframe": str(request.reframe)}
    return {name: str(path.resolve()) for name, path in named.items()} | settings


def find_masks(
    request: MaskRequest,
    driving: DrivingVideo,
    directory: str | Path,
    *,
    sources: Mapping[str, str],
    progress: Progress | None = None,
) -> MadeMasks:
    """Makes, binds, checks and stores masks: from given files, the reference's transparency, or a segmenter.

    Args:
        directory: the store; label maps go to ``directory/labels``.
        sources: names and digests of the files (and settings) the masks depend on.
        progress: called with (driving frames done, driving frames in total).

    Raises:
        InputError: unusable mask files, nobody found, low confidence of the embedded segmenter, an impossible binding, or
            backgrounds that contradict the mode.
    """
    directory = Path(directory)
    finder = _Finder(request, driving)
    whole = finder.whole_picture() if request.reframe is Reframe.AUTO else None
    picture, reference = whole or finder.picture(request.reference, request.reference_mask, request.prompts[1])
    moving = finder.video(directory / "labels", progress)
    notes = []
    if request.fix_polarity:
        notes += _repainted(request.mode, reference, moving)
    else:
        findings.refuse(validate.check_polarity(request.mode, reference.background, moving.background))
    binding = bind(reference, moving, BindingRequest.parse(request.bind))
    if whole is not None:
        picture, reference, note = _reframed(picture, reference, moving, binding)
        notes.append(note)
    report = framing.check(reference, moving, binding)
    given = request.additional_reference_masks or [None] * len(request.additional_references)
    views = [
        _view(finder, path, mask, reference, binding)
        for path, mask in zip(request.additional_references, given, strict=True)
    ]
    masks = BoundMasks(
        mode=request.mode,
        reference=reference,
        driving=moving,
        binding=binding,
        views=tuple(view for _, view in views),
        own_backgrounds=tuple(view.characters.background for _, view in views),
        backgrounds=(None, None) if request.fix_polarity else (reference.background, moving.background),
    )
    return MadeMasks(
        store=MaskStore.write(directory, masks, fps=driving.fps, sources=sources, files=files_to_show(request)),
        masks=masks,
        reference=picture,
        additional_references=tuple(each for each, _ in views),
        framing=report,
        findings=tuple(notes),
    )


@dataclass(frozen=True)
class _Finder:
    """Finds the characters of one request's pictures and video, at the video's size."""

    request: MaskRequest
    driving: DrivingVideo

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the run."""
        return self.driving.frames.height, self.driving.frames.width

    @property
    def letterbox(self) -> bool:
        """Whether pictures are fitted with bars instead of being cropped."""
        return self.request.fit is Fit.LETTERBOX

    @cached_property
    def segmenter(self) -> VideoSegmenter:
        """See `segmenter_for`."""
        return segmenter_for(self.request)

    def picture(self, path: Path, files: Sequence[Path], prompts: Prompts | None) -> tuple[np.ndarray, TrackedMasks]:
        """A picture at the run's size without alpha, and its characters: from files, its own alpha, or a segmenter."""
        picture = read_picture(path, self.request.mode)
        fitted = fit_picture(picture, self.size, letterbox=self.letterbox)
        rgb = np.ascontiguousarray(fitted[..., :3])
        if files:
            given = GivenMasks(files, original=picture.shape[:2], letterbox=self.letterbox)
            return rgb, given.segment(PictureFrames(rgb), _count(prompts))
        if (alpha := from_alpha(fitted)) is not None:
            return rgb, alpha

        def enlarged(size: tuple[int, int]) -> PictureFrames:
            return PictureFrames(np.ascontiguousarray(fit_picture(picture, size, letterbox=self.letterbox)[..., :3]))

        frames = with_detail(PictureFrames(rgb), picture.shape[:2], enlarged)
        return rgb, self.segmenter.segment(frames, prompts)

    def whole_picture(self) -> tuple[np.ndarray, TrackedMasks]:
        """The reference before any crop, as it is in its file, and its characters where the whole of it covers the run's size."""
        picture = read_picture(self.request.reference, self.request.mode)
        size = _covering(picture.shape[:2], self.size, letterbox=self.letterbox)
        fitted = fit_picture(picture, size)
        rgb = np.ascontiguousarray(fitted[..., :3])
        prompts = _moved(self.request.prompts[1], (size[1] - self.size[1]) / 2, (size[0] - self.size[0]) / 2)
        if self.request.reference_mask:
            given = GivenMasks(self.request.reference_mask, original=picture.shape[:2])
            return picture[..., :3], given.segment(PictureFrames(rgb), _count(prompts))
        if (alpha := from_alpha(fitted)) is not None:
            return picture[..., :3], alpha

        def enlarged(size: tuple[int, int]) -> PictureFrames:
            return PictureFrames(np.ascontiguousarray(fit_picture(picture, size)[..., :3]))

        frames = with_detail(PictureFrames(rgb), picture.shape[:2], enlarged)
        return picture[..., :3], self.segmenter.segment(frames, prompts)

    def video(self, directory: Path, progress: Progress | None) -> TrackedMasks:
        """The driving video's characters; their label maps go to ``directory``."""
        frames, files, prompts = self.driving.frames, self.request.driving_mask, self.request.prompts[0]
        if files:
            info = getattr(frames, "source_info", None)
            original = (info.height, info.width) if info is not None else None
            given = GivenMasks(files, original=original, letterbox=self.letterbox, fps=self.driving.fps)
            return given.segment(frames, _count(prompts), directory=directory, progress=progress)
        info = getattr(frames, "source_info", None)
        if self.driving.enlarged is not None and info is not None:
            frames = with_detail(frames, (info.height, info.width), self.driving.enlarged)
        return self.segmenter.segment(frames, prompts, directory=directory, progress=progress)


def _count(prompts: Prompts | None) -> Prompts | None:
    """What prompts say to mask files: only how many characters to expect."""
    return Prompts(characters=prompts.characters) if prompts is not None and prompts.characters else None


def _repainted(mode: AnimationMode, reference: TrackedMasks, driving: TrackedMasks) -> list[Finding]:
    return [
        findings.warning("polarity", f"{each.message}; it was repainted", "paint it so, or choose the other mode")
        for each in validate.check_polarity(mode, reference.background, driving.background)
    ]


def _covering(whole: tuple[int, int], size: tuple[int, int], *, letterbox: bool) -> tuple[int, int]:
    """(height, width) of a whole picture at the scale at which it is fitted to ``size``, nothing cut off."""
    scale = (min if letterbox else max)(size[0] / whole[0], size[1] / whole[1])
    return max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale))


def _moved(prompts: Prompts, right: float, down: float) -> Prompts:
    """Points and boxes, which count from the corner of the fitted picture, counted from the whole picture's."""
    points = tuple(replace(each, x=each.x + right, y=each.y + down) for each in prompts.points)
    by = (right, down, right, down)
    boxes = []
    for each in prompts.boxes:
        x0, y0, x1, y1 = (value + shift for value, shift in zip(each.box, by, strict=True))
        boxes.append(replace(each, box=(x0, y0, x1, y1)))
    return replace(prompts, points=points, boxes=tuple(boxes))


def _reframed(
    picture: np.ndarray, reference: TrackedMasks, moving: TrackedMasks, binding: Binding
) -> tuple[np.ndarray, TrackedMasks, Finding]:
    """The part of the whole picture in which the bound characters are as large as the driving ones, at the run's size."""
    size = (moving.height, moving.width)
    boxes, shares = [], []
    for pair in binding.pairs:
        moved, shown = moving.tracks[pair.driving - 1], reference.tracks[pair.reference - 1]
        if moved.first_frame >= 0 and shown.first_frame >= 0:
            box = moved.boxes[moved.first_frame]
            boxes.append(shown.boxes[0])
            shares.append(float(box[3] - box[1]) / size[0])
    window = find_window(np.array(boxes, dtype=float), shares, (reference.height, reference.width), size)
    done = reframe(picture, reference.labels.labels(0, 1)[0], window, size)
    cover = max(size[0] / reference.height, size[1] / reference.width)
    told = f"the reference picture was resampled by {size[0] / window.height / cover:.2f} from its whole"
    told += f", {done.invented_share:.0%} of it is continued border" if done.invented_share > 0.005 else ""
    if window.narrow:
        told += "; at this size its characters are wider than the film, which cuts them off at the sides"
    if window.limited:
        told += f"; its characters' size is changed by {REFRAME_LIMIT:g} times at most and still differs from the driving video's"
    if window.narrow or window.limited:
        note = findings.warning(
            "reframed", told, "look at the contact sheet; take a reference or a --width that suits better"
        )
    else:
        note = findings.info("reframed", told)
    return done.picture, _with_labels(reference, done.labels), note


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
    finder: _Finder, path: Path, mask: Path | None, reference: TrackedMasks, binding: Binding
) -> tuple[np.ndarray, View]:
    """One more reference view, its characters, and their colours: those of the reference, in the same order.

    A given palette mask keeps its own background; one that is all white shows a scene and no character.
    """
    given = (mask,) if mask else ()
    if _all_white(given):
        scene = fit_picture(read_picture(path, finder.request.mode), finder.size, letterbox=finder.letterbox)
        return np.ascontiguousarray(scene[..., :3]), View(characters=_nobody(finder.size), slots={})
    try:
        picture, masks = finder.picture(path, given, None)
    except InputError as problem:
        raise InputError(f"additional reference: {problem}") from problem
    slots = {track.number: track.slot for track in masks.tracks if track.slot is not None}
    if masks.tracks and len(slots) == len(masks.tracks):
        there = {track.number for track in masks.tracks if track.first_frame >= 0}
        return picture, View(characters=masks, slots={number: slots[number] for number in slots if number in there})
    shown = binding.reference_slots()
    order = sorted(shown, key=lambda number: reference.tracks[number - 1].centre_x(0))
    seen = sorted((t for t in masks.tracks if t.first_frame >= 0), key=lambda track: track.centre_x(0))
    if len(seen) != len(order):
        raise InputError(
            f"an additional reference shows {len(seen)} characters but the reference binds {len(order)}: give it a palette "
            "mask with the same colours."
        )
    painted = {track.number: shown[number] for track, number in zip(seen, order, strict=True)}
    return picture, View(characters=masks, slots=painted)
