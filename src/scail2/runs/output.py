"""From finished segments to the film: streamed, with the driving video's sound, and the side-by-side comparison."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.files.staging import sweep
from scail2.files.storage import digest, hash_file
from scail2.request.animation import AlphaMask, AnimationRequest
from scail2.runs.film import output_codec, refuse_lost
from scail2.runs.journal import Journal
from scail2.runs.ledger import StageLedger
from scail2.runs.preparation import Prepared
from scail2.runs.segment_store import JoinedFrames, SegmentStore
from scail2.runs.transparency import alpha_of, identity
from scail2.video import VideoWriter

_CHUNK = 16


class OutputStage:
    """Writes the output (and ``compare``'s) from finished segments, unless it is there already."""

    def __init__(
        self,
        store: SegmentStore,
        request: AnimationRequest,
        prepared: Prepared,
        ledger: StageLedger,
        journal: Journal,
    ):
        self.store = store
        self.request = request
        self.prepared = prepared
        self.ledger = ledger
        self.journal = journal
        self.codec = output_codec(request)

    @property
    def _indices(self) -> list[int]:
        return [segment.index for segment in self.prepared.plan.segments.segments]

    def write(self) -> Path:
        """Returns the output's path."""
        frames = JoinedFrames(self.store, self._indices)
        if len(frames) != self.prepared.plan.total:
            raise InputError(f"The segments hold {len(frames)} frames, {self.prepared.plan.total} were planned.")
        keys = self._keys()
        self._stage("output", keys["output"], self.request.output, self._film(frames), panels=1)
        if self.request.compare:
            self._stage("compare", keys["compare"], self.request.compare_output, self._compared(frames), panels=3)
        return self.request.output

    def note_stale(self) -> None:
        """Notes which films that were written are not what these segments and the request would give."""
        if set(self._indices) <= set(self.store.finished()):
            self.ledger.note_stale_films(name for name, key in self._keys().items() if not self.ledger.facts(name, key))

    def _keys(self) -> dict[str, str]:
        """What each film is made of, by its stage."""
        pixels = digest([self.store.known(index).frames_sha256 for index in self._indices])
        sound = self.prepared.inputs["audio" if isinstance(self.request.audio, Path) else "driving"]
        made_of = [pixels, sound if self.request.audio else None, self.codec, str(self.prepared.plan.fps)]
        alpha = identity(self.request, self.store.folder.with_name("masks"))
        key = digest(made_of if alpha is None else [*made_of, alpha])
        return {"output": key} | ({"compare": digest([key, self.prepared.key])} if self.request.compare else {})

    def _stage(self, name: str, key: str, path: Path, chunks: Iterator[np.ndarray], *, panels: int) -> None:
        if self.ledger.facts(name, key) and self.ledger.wrote(name, path):
            self.journal.emit("stage_skipped", stage=name)
            return
        self.journal.emit("stage_started", stage=name)
        # A killed process leaves its unfinished file beside the output.
        sweep(path.parent, path.name)
        plan = self.prepared.plan
        done = 0
        with VideoWriter(
            path,
            plan.fps,
            (plan.height, plan.width * panels),
            codec=self.codec,
            audio_from=self.request.soundtrack,
            total_frames=plan.total,
            before_publishing=lambda unfinished: self._announce(name, path, unfinished),
        ) as writer:
            for chunk in chunks:
                writer.write(chunk)
                done += len(chunk)
                self.journal.emit("output_progress", done=done, total=plan.total)
        self.ledger.record_film(name, key, path)
        self.journal.emit("stage_finished", stage=name, path=str(path), frames=plan.total)

    def _film(self, frames: JoinedFrames) -> Iterator[np.ndarray]:
        """The film's frames, (T, H, W, 3), or with transparency (T, H, W, 4)."""
        if self.request.alpha is AlphaMask.OFF:
            yield from frames.chunks(_CHUNK)
            return
        start = 0
        with alpha_of(self.request, self.prepared, frames) as alpha:
            for chunk in frames.chunks(_CHUNK):
                stop = start + len(chunk)
                yield np.concatenate([chunk, alpha(start, stop)[..., None]], axis=-1)
                start = stop

    def _announce(self, name: str, path: Path, unfinished: Path) -> None:
        """Notes what is about to stand at ``path``, so that a kill before `record` leaves no film that nobody knows."""
        self.ledger.announce(path, hash_file(unfinished))
        refuse_lost(path, self.ledger)

    def _compared(self, frames: JoinedFrames) -> Iterator[np.ndarray]:
        """Reference | driving | output, (T, H, 3W, 3)."""
        reference = self.prepared.masks.reference[None]
        start = 0
        for chunk in frames.chunks(_CHUNK):
            driving = self.prepared.driving.frames(start, start + len(chunk))
            still = np.broadcast_to(reference, driving.shape)
            yield np.concatenate([still, driving, chunk], axis=2)
            start += len(chunk)
