"""A cheap look before a run: its first frames at a small size, with the masks of the whole clip, beside the run itself.

::

    film.preview/whole.run   the plan and the masks of the whole clip, at the size of the film; nothing is rendered in it
    film.preview/small.run   the few frames
    film.preview/small.mp4, sheet.png
    film.preview/taken.json  which masks of the run were taken last
"""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scail2.files.documents import DocumentError
from scail2.files.ownership import claimed_file, locked
from scail2.files.storage import is_present
from scail2.perception.preview import INK, SHEETS, grid, palette_overlay, tile_of, write_sheet
from scail2.perception.store import MaskStore
from scail2.request.animation import AlphaMask, AnimationRequest
from scail2.request.masks import Reframe
from scail2.runs.budgeting import STAGES
from scail2.runs.directory import REQUEST, RunDirectory
from scail2.runs.journal import Listener, RunEvent
from scail2.runs.layout import keep_apart
from scail2.runs.masking import TRACKS, set_masks_aside
from scail2.runs.model import PipelineCache
from scail2.runs.preparation import Prepared
from scail2.runs.rehearsal import copy_prepared
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.segment_store import SegmentStore

_FRAMES = 17
_SHRINK = 0.5
# Below this short side nobody could be recognised; films that small are previewed at their own size.
_LEAST_SIDE = 128
_SHOWN = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a preview made.

    Attributes:
        sheet: the contact sheet; ``film`` the few frames; ``masks`` those of the whole clip.
        frames, size: how many, and (height, width) in pixels.
        seconds: time that rendering them took.
        segments: of the whole film.
        whole_seconds: what rendering the whole will take: the time of each stage of the preview, times how much more work the
            budget of the model counts for it; where there is no budget, times how many more pixels it has, a lower bound.
        counted: whether the work was counted.
    """

    sheet: Path
    film: Path
    masks: Path
    frames: int
    size: tuple[int, int]
    seconds: float
    segments: int
    whole_seconds: float
    counted: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: str(each) if isinstance(each, Path) else each for name, each in asdict(self).items()}

    def told(self) -> list[str]:
        """Sentences for people."""
        bound = "about" if self.counted else "at least"
        count = "1 segment" if self.segments == 1 else f"{self.segments} segments"
        return [
            f"{self.sheet} shows {self.frames} frames of {self.size[1]}x{self.size[0]}, rendered in {self.seconds:.1f} s; "
            f"{self.film} plays them.",
            f"The whole film, {count}, will take {bound} {_duration(self.whole_seconds)} of rendering here. Its masks are in "
            f"{self.masks}: to render with these, also after painting on them, add --masks {shlex.quote(str(self.masks))}",
        ]


def preview_folder(run_dir: Path) -> Path:
    """``film.preview`` beside ``film.run``."""
    return run_dir.with_name(f"{run_dir.stem}.preview")


def render_preview(
    run_dir: Path, request: AnimationRequest, *, overwrite: bool = False, events: Listener | None = None
) -> Preview:
    """Renders a run's first frames at a small size, beside its run directory, which is only read.

    Masks are made for the whole clip, as the run would make them, or taken from the run as they are painted now. The
    preview's own, from which the run's differ since they were taken, move to its ``superseded/``. Events are those of both
    of its runs, then ``preview_finished`` with what was made.

    Raises:
        InputError: whatever the run would be refused for.
    """
    folder = preview_folder(run_dir.absolute())
    whole_dir, sheet = folder / "whole.run", folder / "sheet.png"
    keep_apart(whole_dir, request)
    _take_prepared(run_dir.absolute(), whole_dir, folder / "taken.json")
    model = PipelineCache()
    whole = RunDirectory.create(whole_dir, request, renders=False).plan(pipe=model, events=events)
    with claimed_file(sheet, SHEETS) as staging:
        smaller = small_request(request, whole, whole_dir / "masks", folder / "small.mp4")
        small = RunDirectory.create(folder / "small.run", smaller, overwrite=overwrite)
        small.execute(model, events=events)
        prepared = small.plan(pipe=model)
        write_sheet(staging.place, contact_sheet(prepared, SegmentStore(small.path)))
        staging.publish()
    timings = SegmentStore(small.path).known(0).timings
    whole_seconds, counted = _whole_seconds(whole, prepared, timings)
    made = Preview(
        sheet=sheet,
        film=smaller.output,
        masks=whole_dir / "masks",
        frames=prepared.plan.total,
        size=(prepared.plan.height, prepared.plan.width),
        seconds=timings["total"],
        segments=len(whole.plan.segments.segments),
        whole_seconds=whole_seconds,
        counted=counted,
    )
    if events is not None:
        events(RunEvent.now("preview_finished", made.to_json()))
    return made


def _take_prepared(run: Path, whole: Path, note: Path) -> None:
    """Copies what the run has prepared, where its masks are not those that were taken last; ``note`` says which these were."""
    masks = run / "masks"
    found = MaskStore(masks).content_hash() if is_present(run / REQUEST) and is_present(masks / TRACKS) else None
    if whole.exists() and found in (None, _last_taken(note)):
        return
    whole.mkdir(parents=True, exist_ok=True)
    with locked(whole):
        set_masks_aside(whole / "masks")
        copy_prepared(run, whole)
    if found is not None:
        write_sealed(note, {"masks": found})


def _last_taken(note: Path) -> str | None:
    with suppress(DocumentError):
        return read_sealed(note, dict[str, str]).get("masks") if is_present(note) else None
    return None


def small_request(request: AnimationRequest, whole: Prepared, masks: Path, output: Path) -> AnimationRequest:
    """The request for the few frames: half the height and width in the model's steps, with masks that exist already."""
    height, width = small_size((whole.plan.height, whole.plan.width), whole.facts.size_step)
    return request.with_changes(
        frames=min(_FRAMES, whole.plan.segment_frame_length, whole.plan.total),
        height=height,
        width=width,
        masks=masks,
        reference_mask=(),
        driving_mask=(),
        additional_reference_masks=(),
        sam3=None,
        text=(),
        points=(),
        boxes=(),
        reference_points=(),
        reference_boxes=(),
        characters=None,
        bind=(),  # the masks' colours say it
        reframe=Reframe.OFF,
        output=output,
        codec=None,
        audio=False,
        alpha=AlphaMask.OFF,
        compare=False,
        drift_limit=None,
    )


def small_size(size: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    """A preview's (height, width): half the film's, in the model's steps, its short side not below 128 pixels."""
    scale = min(1.0, max(_SHRINK, _LEAST_SIDE / min(size)))
    height, width = (max(1, round(side * scale / each)) * each for side, each in zip(size, step, strict=True))
    return height, width


def contact_sheet(prepared: Prepared, store: SegmentStore) -> np.ndarray:
    """Reference and driving frames under their masks, and below them what was rendered: uint8 (H, W, 3)."""
    masks, rendered = prepared.masks, store.frames(0)
    chosen = np.unique(np.linspace(0, len(rendered) - 1, min(_SHOWN, len(rendered))).round().astype(int)).tolist()
    over = palette_overlay(masks.reference[None], masks.reference_mask[None])[0]
    above, below = [("reference, masked", tile_of(over), INK)], [("reference", tile_of(masks.reference), INK)]
    for frame in chosen:
        driving = prepared.driving.frames(frame, frame + 1)
        shown = palette_overlay(driving[..., :3], masks.driving_mask.frames(frame, frame + 1))[0]
        above.append((f"driving {frame}", tile_of(shown), INK))
        below.append((f"preview {frame}", tile_of(rendered.frames(frame, frame + 1)[0]), INK))
    return grid([*above, *below], len(above))


def _whole_seconds(whole: Prepared, small: Prepared, timings: Mapping[str, float]) -> tuple[float, bool]:
    """What the whole film takes by a preview's seconds, and whether its work was counted, with attention, or is its pixels."""
    one = small.plan.height * small.plan.width * small.plan.segments.segments[0].padded_frames
    every = [whole.plan.height * whole.plan.width * each.padded_frames for each in whole.plan.segments.segments]
    times = sum(every) / one
    chosen = [None if each.budget is None else each.budget.chosen for each in (whole, small)]
    counted: dict[str, float] = {}
    if chosen[0] and chosen[1]:
        more, less = chosen[0].seconds, chosen[1].seconds
        counted = {
            timed: more[stage] / less[stage] for timed, stage in STAGES.items() if less[stage] and timings.get(timed)
        }
    found = sum(timings[timed] * ratio for timed, ratio in counted.items())
    # Writing and measuring go by pixels.
    rest = timings["total"] - sum(timings[timed] for timed in counted)
    return found + max(0.0, rest) * times, bool(counted) or all(each == one for each in every)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
