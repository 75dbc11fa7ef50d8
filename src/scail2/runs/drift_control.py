"""Drift of a run: corrected while rendering, measured after every segment, reported at the end."""

from scail2.request import AnimationRequest, DriftCorrection
from scail2.runs.journal import Journal
from scail2.runs.preparation import Prepared
from scail2.runs.segment_store import SegmentStore


class DriftControl:
    def __init__(self, store: SegmentStore, request: AnimationRequest, prepared: Prepared, journal: Journal):
        self.corrects = request.drift_correction is not DriftCorrection.OFF

    def correct(self, output):
        return output

    def measure(self, index):
        pass

    def ensure_measured(self, index):
        pass

    def finish(self):
        pass
