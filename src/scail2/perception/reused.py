"""Masks that were made earlier, for another run: its mode, its size, its part of the clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.files.storage import hash_file
from scail2.modes import MODE_TRAITS
from scail2.perception.binding import BindingRequest, bind
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.checks import findings
from scail2.perception.checks.findings import Finding
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.make import MadeMasks, files_to_show, fit_picture, read_picture
from scail2.perception.preview import write_png
from scail2.perception.refitting import Fitted, Places, places
from scail2.perception.segmenters.snapping import PALETTE, PALETTE_NAMES
from scail2.perception.store import MaskStore
from scail2.perception.store_folder import LABELS
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import Fit, MaskRequest, Reframe
from scail2.video import read_image

MEASURED = "measured"
# A mask's edge that is continued by less than this is nothing to look at.
_SLIVER = 0.01


def reused_masks(
    request: MaskRequest, masks: Path, driving: DrivingVideo, folder: Path, sources: Mapping[str, str]
) -> MadeMasks:
    """The masks of a store in ``folder``, as this run needs them; of a whole clip's the beginning where ``frames`` asks for it.

    The driving video's label maps go to folders in ``folder``.

    Raises:
        InputError: they were made for another number of frames, another rate, a smaller part of the picture or of the video,
            or other additional references.
    """
    if request.reframe is Reframe.AUTO:
        raise InputError("--reframe changes the reference and needs new masks; leave out --masks or --reframe.")
    store = MaskStore(masks)
    store.verify()
    _check_frames(request, store, driving)
    run = _Run(request, store, driving)
    picture, reference_places = run.reference(sources)
    reference, moving = store.measure(folder / MEASURED, driving.segments.total)
    reference = _moved(reference, reference_places, None)
    moving = _moved(moving, run.driving_places(), folder / LABELS)
    binding = bind(reference, moving, BindingRequest.parse(request.bind))
    views = run.additional()
    bound = BoundMasks(
        mode=request.mode,
        reference=reference,
        driving=moving,
        binding=binding,
        own_backgrounds=tuple(store.own_backgrounds),
    )
    files = files_to_show(request) | ({"reframe": str(Reframe.AUTO)} if run.reframed else {})
    written = MaskStore.write(folder, bound, fps=driving.fps, sources=sources, files=files)
    for number, (_, mask) in enumerate(views, start=1):
        write_png(folder / f"additional_mask_{number}.png", mask)
    return MadeMasks(
        store=written,
        masks=bound,
        reference=picture,
        additional_references=tuple(view for view, _ in views),
        findings=(*_made_for_others(request, sources, store), *run.notes),
    )


def _check_frames(request: MaskRequest, store: MaskStore, driving: DrivingVideo) -> None:
    total = driving.segments.total
    begins_alike = request.frames is not None and store.total > total
    if store.fps != driving.fps or (store.total != total and not begins_alike):
        raise InputError(
            f"The masks in {store.directory} have {store.total} frames at {_shown(store.fps)} a second, but this run uses "
            f"{total} of the driving video at {_shown(driving.fps)}; make them again for it with `scail2 masks`, or give "
            "--frames and --fps as they were made with."
        )


def _shown(fps: Fraction) -> str:
    return f"{float(fps):.6g}"


@dataclass(frozen=True)
class _Run:
    """What a run makes of a store: its pictures, and where the pixels of its masks lie in the store's."""

    request: MaskRequest
    store: MaskStore
    driving: DrivingVideo
    notes: list[Finding] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the run."""
        return self.driving.frames.height, self.driving.frames.width

    @property
    def reframed(self) -> bool:
        """Whether the store's reference is not as its file shows it."""
        return self.store.files.get("reframe") == Reframe.AUTO

    def driving_places(self) -> Places:
        """The driving mask's."""
        info = getattr(self.driving.frames, "source_info", None)
        source = (info.height, info.width) if info is not None else (self.store.height, self.store.width)
        return self._places(source, (self.store.height, self.store.width), "the driving video")

    def reference(self, sources: Mapping[str, str]) -> tuple[np.ndarray, Places]:
        """The reference picture uint8 (H, W, 3), from its file or as it was reframed, and its mask's places."""
        size = self.store.reference.shape[:2]
        if self.reframed:
            picture = self._reframed_reference(sources)
            as_it_is = Fitted(source=picture.shape[:2], size=picture.shape[:2], fit=Fit.COVER)
            now = Fitted(source=picture.shape[:2], size=self.size, fit=self.request.fit)
            return self._fitted(picture), places(as_it_is, now, "the reference")
        picture = read_picture(self.request.reference, self.request.mode)
        return self._fitted(picture), self._places(picture.shape[:2], size, "the reference")

    def additional(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Additional references and their masks, each uint8 (H, W, 3)."""
        paths, stored = self.request.additional_references, self.store.additional_for(self.request.mode)
        if len(stored) != len(paths):
            raise InputError(
                f"The masks in {self.store.directory} cover {len(stored)} additional references, but {len(paths)} were given."
            )
        usual = MODE_TRAITS[self.request.mode].reference_background
        own: Sequence[str | None] = [*self.store.own_backgrounds, *[None] * len(stored)]
        views = []
        for number, (path, mask) in enumerate(zip(paths, stored, strict=True)):
            picture = read_picture(path, self.request.mode)
            found = self._places(picture.shape[:2], mask.shape[:2], f"additional reference {number + 1}")
            bars = PALETTE[PALETTE_NAMES.index(own[number] or usual)]
            views.append((self._fitted(picture), found.pick(mask[None], tuple(int(each) for each in bars))[0]))
        return views

    def _fitted(self, picture: np.ndarray) -> np.ndarray:
        letterbox = self.request.fit is Fit.LETTERBOX
        return np.ascontiguousarray(fit_picture(picture, self.size, letterbox=letterbox)[..., :3])

    def _places(self, source: tuple[int, int], size: tuple[int, int], what: str) -> Places:
        made = Fit.LETTERBOX if self.store.files.get("fit") == Fit.LETTERBOX else Fit.COVER
        before = Fitted(source=source, size=size, fit=made)
        found = places(before, Fitted(source=source, size=self.size, fit=self.request.fit), what)
        if found.continued > _SLIVER:
            told = f"the masks in {self.store.directory} show less of {what} than this run: at its sides they are continued"
            self.notes.append(
                findings.warning("masks_cropped", told, "look at the contact sheet; make new masks if not")
            )
        return found

    def _reframed_reference(self, sources: Mapping[str, str]) -> np.ndarray:
        kept, file = self.store.directory / "reference.png", self.request.reference
        again = "make new masks for this run with `scail2 masks`."
        if not kept.exists() or self.store.info["sources"].get("reference") != sources["reference"]:
            raise InputError(
                f"The masks in {self.store.directory} belong to a reframed picture, which is not there or of another file "
                f"than {file.name}; {again}"
            )
        if self.store.mode is not self.request.mode and read_image(file).shape[-1] == 4:
            raise InputError(
                f"The masks in {self.store.directory} belong to a picture that was reframed on the background of "
                f"{self.store.mode} mode, in the place of what is transparent in {file.name}; {again}"
            )
        picture = read_image(kept)
        if picture.shape[0] < self.size[0] or picture.shape[1] < self.size[1]:
            told = f"the reference was reframed at {picture.shape[1]}x{picture.shape[0]} and is enlarged from there"
            self.notes.append(findings.warning("reframed", told, "make new masks with --reframe auto at this size"))
        return picture


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
        if made_from.get(name) not in (None, sources[name]) and not _whole_folder(request, name, made_from[name])
    )


def _whole_folder(request: MaskRequest, name: str, digest: str) -> bool:
    """Whether a digest is of all pictures of the driving folder, of which this run uses the first ones only."""
    shortened = name == "driving" and request.frames is not None and request.driving.is_dir()
    return shortened and digest == hash_file(request.driving)


def _moved(masks: TrackedMasks, found: Places, directory: Path | None) -> TrackedMasks:
    """The same tracks at other places, themselves where these are the same."""
    if found.changes_nothing(masks.height, masks.width):
        return masks
    recorder = TrackRecorder(directory, height=len(found.rows), width=len(found.columns))
    for _, labels in masks.windows():
        recorder.add(found.pick(labels))
    return recorder.finish(
        masks.origin,
        slots=[track.slot for track in masks.tracks],
        names=[track.name for track in masks.tracks],
        background=masks.background,
        warnings=masks.warnings,
    )
