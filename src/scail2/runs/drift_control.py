"""Drift of a run: corrected while rendering, measured after every segment, reported at the end.

Whatever a correction is anchored to is read from the run's files, so a resumed run corrects with the same bits.
"""

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from scail2.conditions import character_region
from scail2.errors import InputError
from scail2.evaluation import drift, drift_plot
from scail2.evaluation.colour import ColourStatistics, colour_statistics
from scail2.evaluation.drift import DriftLimitExceeded, DriftReport, SegmentDrift, SegmentStatistics
from scail2.request import AnimationRequest, DriftCorrection
from scail2.runs.journal import Journal
from scail2.runs.preparation import Prepared
from scail2.runs.segment_store import SegmentStore
from scail2.runs.storage import digest, read_json

if TYPE_CHECKING:
    from scail2.pipeline import SegmentOutput

_TAIL = 2


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

    def measure(self, index: int) -> None:
        """Measures a finished segment, unless that was done already, and stops the run when it is over the limit."""
        key = self._key(index)
        known = self.store.metrics(index)
        if known is None or known["key"] != key:
            measured = self._measured(index)
            self.store.write_metrics(index, {"key": key, "drift": measured.to_json()})
            self.journal.emit("drift", segment=index, score=round(measured.score, 4), seam_energy=measured.seam_energy)
        else:
            measured = SegmentDrift.from_json(known["drift"])
        try:
            drift.check_limit(measured, self.request.drift_limit)
        except DriftLimitExceeded:
            self.finish()
            raise

    def finish(self) -> None:
        """Writes ``drift.json`` and, where matplotlib is installed, ``drift.png`` from the measures of all segments."""
        report = DriftReport()
        for index in self.store.finished():
            known = self.store.metrics(index)
            if known is not None:
                report.add(SegmentDrift.from_json(known["drift"]))
        path = self.store.folder.parent / "drift.json"
        picture = path.with_suffix(".png")
        if path.exists() and picture.exists() and read_json(path) == report.to_json():
            return
        report.save(path)
        try:
            drift_plot.plot(report, picture, limit=self.request.drift_limit)
        except InputError as problem:
            self.journal.emit("plot_left_out", reason=str(problem))

    def _measured(self, index: int) -> SegmentDrift:
        segment = self.prepared.plan.segments[index]
        source = self.store.frames(index)
        tail = first = None
        if index:
            before = self.store.frames(index - 1)
            tail = before.frames(max(0, len(before) - _TAIL), len(before))
            first = self._first
        return drift.measure_segment(
            source.frames(0, len(source)),
            reference=self._reference,
            first_segment_stats=first,
            previous_tail=tail,
            character_mask=self._characters(segment.first_new, segment.stop),
            index=index,
        )

    def _key(self, index: int) -> str:
        """Hash of all frames a segment's measures are made from."""
        frames = [self.store.record(each).frames_sha256 for each in sorted({0, max(0, index - 1), index})]
        return digest([frames, self.prepared.key])

    def _anchor(self, index: int) -> ColourStatistics:
        """Colours of the first segment, or of the frames just before this one, as stored."""
        if self.request.drift_correction is DriftCorrection.REINHARD_FIRST:
            return self._first.colour
        history = self.store.state(index - 1).history
        start = self.prepared.plan.segments[index].first_new
        return colour_statistics(history, self._characters(start - len(history), start))

    @property
    def _first(self) -> SegmentStatistics:
        """Statistics of the first segment, which was measured before any later one is rendered."""
        return SegmentDrift.from_json(self.store.metrics(0)["drift"]).statistics

    @cached_property
    def _reference(self) -> SegmentStatistics:
        masks = self.prepared.masks
        mask = character_region(torch.from_numpy(masks.reference_mask)).numpy()
        return drift.segment_statistics(masks.reference[None], mask[None])

    def _characters(self, start: int, stop: int) -> np.ndarray:
        """Where the driving masks show a character: bool (T, H, W)."""
        return character_region(torch.from_numpy(self.prepared.masks.driving_mask.frames(start, stop))).numpy()
