"""Drift of a run: corrected while rendering, measured after every segment, reported at the end.

Whatever a correction is anchored to is read from the run's files, so a resumed run corrects with the same bits.
"""

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scail2.drift import measure as drift
from scail2.drift import plot as drift_plot
from scail2.drift.colour import ColourStatistics, colour_statistics
from scail2.drift.driving import DrivingMeasures
from scail2.drift.measure import DriftLimitExceeded, DriftReport, SegmentDrift, SegmentStatistics
from scail2.errors import InputError
from scail2.files.documents import DocumentError
from scail2.files.storage import digest, hash_file, is_present
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.network import installed
from scail2.request.animation import AnimationRequest, DriftCorrection
from scail2.runs.journal import Journal
from scail2.runs.motion import MotionCheck, looked_at
from scail2.runs.preparation import Prepared
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.segment_store import SegmentStore
from scail2.runs.verdict import DRIFT
from scail2.runs.watching import SharedFrames, WatchedFrames
from scail2.segments import Segment

if TYPE_CHECKING:
    from scail2.pipeline.pipeline import SegmentOutput

_TAIL = 4
# Of everything that a segment is measured for; segments that were measured for less are measured again.
_MEASURES = 2


class DriftControl:
    """Correction, measures and limit of one run's drift.

    Args:
        store: finished segments; measures are stored beside them.
        journal: receives ``drift`` after every measured segment.
    """

    def __init__(self, store: SegmentStore, request: AnimationRequest, prepared: Prepared, journal: Journal):
        self.store = store
        self.request = request
        self.prepared = prepared
        self.journal = journal
        self.masks = SharedFrames(prepared.masks.driving_mask)
        self.driving = WatchedFrames(prepared.driving, looked_at(prepared.plan.segments))
        self.motion = MotionCheck(self.driving)
        self._last: tuple[str, np.ndarray] | None = None  # hash of the frames measured last, and the end of them

    @property
    def corrects(self) -> bool:
        """Whether `correct` changes anything."""
        return self.request.drift_correction is not DriftCorrection.OFF

    def correct(self, output: "SegmentOutput") -> "SegmentOutput":
        """A rendered segment with its colours matched to the anchor, in its frames and in its float history."""
        if output.index == 0:
            return output
        segment = output.segment
        frames = drift.correct(
            output.frames,
            self._anchor(output.index),
            self.request.drift_correction,
            mask=self._characters(segment.first_new, segment.stop),
        )
        history = output.history.clone()
        kept = min(len(history), len(frames))
        history[-kept:] = frames[-kept:]
        return replace(output, frames=frames, history=history)

    def measure(self, index: int, frames: np.ndarray | None = None) -> None:
        """Measures a finished segment, unless that was done already, and stops the run when it is over the limit.

        ``frames`` are the segment's, uint8 (T, H, W, 3), where they are at hand just as they were stored.
        """
        measured = self._known(index)
        if measured is None:
            try:
                measured = self._measured(index, frames)
            except InputError as error:
                raise self.store.unreadable(index, error) from error
            self.store.write_metrics(index, {"key": self._key(index), "drift": measured.to_json()})
            self._announce(measured)
        try:
            drift.check_limit(measured, self.request.drift_limit)
        except DriftLimitExceeded:
            self.finish()
            raise

    def _announce(self, measured: SegmentDrift) -> None:
        error = measured.motion_error
        self.journal.emit(
            "drift",
            segment=measured.index,
            score=round(measured.score, 4),
            seam_energy=measured.seam_energy,
            flicker=measured.flicker,
            motion_error=None if error is None else error.value,
        )

    def finish(self) -> None:
        """Writes ``drift.json`` and ``drift.png`` from the measures of all segments."""
        report = DriftReport()
        for index in self.store.finished():
            if (known := self._known(index)) is not None:
                report.add(known)
        path = self.store.folder.parent / DRIFT
        picture = path.with_suffix(".png")
        drawn = {"limit": self.request.drift_limit, "sha256": hash_file(picture) if is_present(picture) else None}
        if drawn["sha256"] is None or _written(path) != report.to_json() | {"picture": drawn}:
            drift_plot.plot(report, picture, limit=self.request.drift_limit)
            drawn["sha256"] = hash_file(picture)
            write_sealed(path, report.to_json() | {"picture": drawn})

    def _known(self, index: int) -> SegmentDrift | None:
        """The measures stored beside a segment, if they are of its present frames; damaged ones are made again."""
        known = self.store.metrics(index)
        if known is None or known.get("key") != self._key(index):
            return None
        try:
            return SegmentDrift.from_json(known["drift"])
        except (TypeError, ValueError, KeyError, AttributeError):
            return None

    def _measured(self, index: int, frames: np.ndarray | None = None) -> SegmentDrift:
        segment = self.prepared.plan.segments[index]
        if frames is None:
            source = self.store.frames(index)
            frames = source.frames(0, len(source))
        tail = first = None
        if index:
            tail = self._tail(index - 1)
            first = self._first
        masks = self.masks.frames(segment.first_new, segment.stop)
        characters = _region(masks)
        measured = drift.measure_segment(
            frames,
            reference=self._reference,
            first_segment_stats=None if first is None else first.statistics,
            previous_tail=tail,
            character_mask=characters,
            driving=self._driving(segment, 0 if tail is None else len(tail), characters, first),
            index=index,
        )
        error = self.motion.measure(segment, frames, masks)
        self.driving.forget(segment.stop)
        self._last = (self.store.known(index).frames_sha256, frames[-_TAIL:].copy())
        return replace(measured, motion_error=error)

    def _tail(self, index: int) -> np.ndarray:
        """The last frames of a finished segment, from its file where it is not the one that was measured last."""
        if self._last is not None and self._last[0] == self.store.known(index).frames_sha256:
            return self._last[1]
        source = self.store.frames(index)
        return source.frames(max(0, len(source) - _TAIL), len(source))

    def _driving(
        self, segment: Segment, tail: int, characters: np.ndarray, first: SegmentDrift | None
    ) -> DrivingMeasures:
        """What the driving video does in a segment's new frames, whose characters are given, and in the tail before it."""
        stride = self.driving.stride(*characters.shape[1:])
        small = self.driving.small(segment.first_new, segment.stop)
        return DrivingMeasures(
            glance=self.driving.glance(segment.first_new - tail, segment.stop),
            statistics=drift.segment_statistics(small, characters[:, ::stride, ::stride]),
            first=None if first is None else first.driving,
            is_scene=self.request.mode is AnimationMode.REPLACEMENT,
        )

    def _key(self, index: int) -> str:
        """Hash of all frames a segment's measures are made from."""
        frames = [self.store.known(each).frames_sha256 for each in sorted({0, max(0, index - 1), index})]
        return digest([frames, self.prepared.key, _MEASURES, installed()])

    def _anchor(self, index: int) -> ColourStatistics:
        """Colours of the first segment, or of the frames just before this one, as stored."""
        if self.request.drift_correction is DriftCorrection.REINHARD_FIRST:
            return self._first.statistics.colour
        history = self.store.state(index - 1).history
        start = self.prepared.plan.segments[index].first_new
        return colour_statistics(history, self._characters(start - len(history), start))

    @property
    def _first(self) -> SegmentDrift:
        """The first segment's measures, which were made before any later one is rendered."""
        known = self._known(0)
        return self._measured(0) if known is None else known

    @cached_property
    def _reference(self) -> SegmentStatistics:
        masks = self.prepared.masks
        return drift.segment_statistics(masks.reference[None], _region(masks.reference_mask)[None])

    def _characters(self, start: int, stop: int) -> np.ndarray:
        """Where the driving masks show a character: bool (T, H, W)."""
        return _region(self.masks.frames(start, stop))


def _region(masks: np.ndarray) -> np.ndarray:
    """Where masks uint8 (..., H, W, 3) show a character: bool (..., H, W)."""
    import torch

    from scail2.conditions import character_region

    return character_region(torch.from_numpy(masks)).numpy()


def _written(path: Path) -> dict[str, Any] | None:
    """The report as it was written; None when it is missing or no longer what was written: it is made again."""
    with suppress(DocumentError):
        return read_sealed(path, dict[str, Any], nonfinite=True) if is_present(path) else None
    return None
