"""Renders the segments that are missing or stale, one after the other, and joins them into the output.

A finished segment is saved and measured beside the rendering of the next one; at most one waits to be saved.
A segment is a pure function of its inputs (`Executor.key`) and of its predecessor's state. Whatever is on disk with the
same key and an accepted predecessor state is skipped; everything else is rendered again, the old version kept aside.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from scail2.files.storage import digest, is_present
from scail2.pipeline.beside import Beside
from scail2.request.animation import AnimationRequest
from scail2.runs.drift_control import DriftControl
from scail2.runs.journal import Journal
from scail2.runs.ledger import StageLedger
from scail2.runs.model import ModelHandle
from scail2.runs.preparation import Prepared
from scail2.runs.segment_record import SegmentRecord
from scail2.runs.segment_store import SegmentState, SegmentStore, hash_frames
from scail2.video import to_uint8

if TYPE_CHECKING:
    import torch

    from scail2.pipeline.pipeline import SegmentOutput
    from scail2.runs.embeddings import Embeddings


class RunInterruptedError(RuntimeError):
    """The pipeline was told to stop (``pipe.interrupt``) in the middle of a segment."""


class Executor:
    """Renders one run's segments.

    Args:
        store: where finished segments are.
        prepared: the run's inputs, masks, plan and model facts.
        model: gives the pipeline when something must be rendered.
        ledger: which versions of the segments this run made.
        journal: receives ``segment_started``, ``step``, ``segment_finished``, ``segment_skipped``.
    """

    def __init__(
        self,
        store: SegmentStore,
        request: AnimationRequest,
        prepared: Prepared,
        model: ModelHandle,
        journal: Journal,
        ledger: StageLedger,
    ):
        self.ledger = ledger
        self.store = store
        self.request = request
        self.prepared = prepared
        self.model = model
        self.journal = journal
        self.drift = DriftControl(store, request, prepared, journal)
        self._keys: dict[int, str] = {}
        self._rendering = 0
        self.fresh: list[SegmentRecord] = []  # what was rendered, in that order
        self._saving = Beside[None]("saving")
        self._continues: tuple[str, ...] | None = None

    @property
    def segments(self) -> tuple:
        """The planned segments."""
        return self.prepared.plan.segments.segments

    def key(self, index: int) -> str:
        """Hash of everything but the predecessor that decides a segment: settings, reference, its driving and masks."""
        if index not in self._keys:
            segment = self.segments[index]
            window = self.drift.masks.frames(segment.start, segment.stop)
            parts = [self.prepared.key, segment.start, segment.stop, segment.padded_frames, segment.overlap]
            self._keys[index] = digest([*parts, hash_frames(window)])
        return self._keys[index]

    def is_current(self, index: int) -> bool:
        """Whether the finished segment on disk is what rendering it now would give (or was accepted in its place)."""
        record = self.store.record(index)
        if record is None or record.key != self.key(index) or not self.ledger.made(record):
            return False
        if index == 0:
            return record.previous_state == self._initial_state()
        previous = self.store.record(index - 1)
        return previous is not None and record.previous_state in previous.accepted_states()

    def note_stale(self) -> None:
        """Notes, for `RunDirectory.status`, which finished segments the request as it is now will render again.

        A segment whose predecessor is missing counts as it is: redoing that one usually gives what it was continued from.
        """
        stale: dict[int, SegmentRecord] = {}
        previous: SegmentRecord | None = None
        for index in range(len(self.segments)):
            record = self.store.whole_record(index)
            if record is not None:
                fits = record.key == self.key(index) and self.ledger.made(record) and not stale
                if index == 0:
                    fits = fits and record.previous_state == self._initial_state()
                elif previous is not None:
                    fits = fits and record.previous_state in previous.accepted_states()
                if not fits:
                    stale[index] = record
            previous = record
        self.ledger.note_stale(stale)

    def render(self) -> int:
        """Renders every segment that is not current and returns how many were rendered."""
        index = rendered = 0
        while index < len(self.segments):
            if self.is_current(index):
                self._keep(index)
                index += 1
                continue
            count = self._render_from(index)
            index, rendered = index + count, rendered + count
        self._retire_surplus()
        return rendered

    def rerender(self, index: int, *, seed: int | None, continues: Sequence[str]) -> None:
        """Renders one segment again.

        Without ``seed`` the segment starts from its own seed or the stored generator state: same settings give the same
        frames, bit for bit. ``continues`` are the states of its older versions from which the next segment may still be
        continued; without them the following segments become stale (unless nothing changed) and `render` redoes them.
        """
        self._continues = tuple(continues)
        try:
            self._render_from(index, seed=seed, only=True)
        finally:
            self._continues = None

    def _keep(self, index: int) -> None:
        self.journal.emit("segment_skipped", segment=index, segments=len(self.segments))
        self.drift.measure(index)

    def _retire_surplus(self) -> None:
        """Segments of an earlier, longer plan move aside."""
        for index in self.store.finished():
            if index >= len(self.segments):
                self.store.supersede(index)

    def _initial_state(self) -> str:
        return digest(["seed", self.request.seed])

    def _previous(self, index: int, seed: int | None) -> tuple[str, torch.Tensor | None, torch.Generator]:
        """Predecessor's state hash, float history (overlap, 3, H, W) and the generator a segment starts from."""
        import torch

        generator = torch.Generator("cpu")
        history, identity = None, self._initial_state()
        if index == 0:
            generator.manual_seed(self.request.seed)
        else:
            state, record = self.store.state(index - 1), self.store.known(index - 1)
            generator.set_state(state.next_generator_state)
            history, identity = state.history, record.state
        if seed is not None:
            generator.manual_seed(seed)
        return identity, history, generator

    def _last_record(self, index: int) -> SegmentRecord | None:
        """The record of a segment's latest version; where its file is damaged or another run's, as the run noted it."""
        record = self.store.last_record(index)
        return record if record is not None and self.ledger.made(record) else self.ledger.take(index)

    def _tell_other_start(self, index: int) -> None:
        """Says so when a segment that is gone had been continued from a version of its predecessor that was replaced."""
        older = self._last_record(index)
        previous = self.store.record(index - 1) if index else None
        if older is not None and previous is not None and older.previous_state in previous.also_continues:
            self.journal.emit(
                "note",
                message=f"Segment {index} had been continued from an older version of segment {index - 1}; it is rendered "
                "again from the present one and will differ.",
            )

    def _own_seed(self, index: int) -> int | None:
        """The seed a segment was last given, which stays with it while its length and the run's seed do."""
        record = self._last_record(index)
        if record is None or record.num_frames != self.segments[index].new_frames:
            return None
        return record.seed if record.run_seed in (None, self.request.seed) else None

    def _render_from(self, first: int, *, seed: int | None = None, only: bool = False) -> int:
        """Renders from ``first`` until a segment is current again or has a seed of its own; returns how many."""
        seed = self._own_seed(first) if seed is None else seed
        self._tell_other_start(first)
        identity, history, generator = self._previous(first, seed)
        stop = first + 1 if only else len(self.segments)
        index = first
        self._announce(index)
        # Left from the inside out: the stream is closed, then what is being saved is waited for.
        with Beside[None]("saving") as self._saving, closing(self._stream(first, stop, history, generator)) as outputs:
            started = time.monotonic()
            for output in outputs:
                state = _state_after(output)
                taken = (output, state, identity, seed, time.monotonic() - started)
                self._saving.do(partial(self._save, *taken))
                identity = state.identity()
                index += 1
                if index == stop or self._may_leave_off(index):
                    break
                seed = None
                self._announce(index)
                started = time.monotonic()
            else:
                raise RunInterruptedError(f"segment {index} was interrupted; finished segments are kept")
        return index - first

    def _may_leave_off(self, index: int) -> bool:
        """Whether rendering need not go on with a segment from the one before it, which is being saved."""
        if is_present(self.store.path(index)):
            self._saving.wait()
            if self.is_current(index):
                return True
        return self._own_seed(index) is not None

    def _announce(self, index: int) -> None:
        self._rendering = index
        self.key(index)
        segment = self.segments[index]
        self.journal.emit(
            "segment_started", segment=index, segments=len(self.segments), start=segment.start, stop=segment.stop
        )

    def _stream(
        self, first: int, stop: int, history: torch.Tensor | None, generator: torch.Generator
    ) -> Generator[SegmentOutput, None, None]:
        prepared, masks = self.prepared, self.prepared.masks
        options = self.request.pipeline_options() | prepared.plan.pipeline_options() | prepared.sampling.arguments
        options |= self._embeddings().arguments()  # first, so that encoders are gone before the transformer comes
        return self.model.pipe.stream(
            masks.reference,
            self.drift.driving,
            masks.reference_mask,
            self.drift.masks,
            additional_references=masks.additional_references or None,
            additional_reference_masks=masks.additional_reference_masks or None,
            generator=generator,
            start_segment=first,
            stop_segment=stop,
            history=history,
            history_transform=self._correct if self.drift.corrects else None,
            callback_on_step_end=self._on_step,
            # Preflight has judged the masks, every frame of them; the pipeline samples and misses who is seen briefly.
            allow_mask_mismatch=True,
            **options,
        )

    def _embeddings(self) -> Embeddings:
        """The prompt and the reference encoded: as the run keeps them, or now."""
        from scail2.runs.embeddings import EmbeddingStage  # with torch, which a plan does without

        budget = self.prepared.budget
        if budget is not None and budget.chosen is not None:
            self.model.place_as(budget.chosen.placement)
        stage = EmbeddingStage(self.store.folder.parent, self.request, self.prepared, self.ledger)
        kept = stage.kept()
        if kept is not None:
            self.model.leave_encoders_out()
            return kept
        return stage.make(*self.model.encoders(self.prepared.facts))

    def _correct(self, output: SegmentOutput) -> SegmentOutput:
        """`DriftControl.correct`, which reads what was saved before."""
        self._saving.wait()
        return self.drift.correct(output)

    def _on_step(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        self._saving.check()  # a full disk or too much drift ends the run now, not at the segment's end
        steps = self.prepared.sampling.settings.steps
        self.journal.emit("step", segment=self._rendering, segments=len(self.segments), step=step + 1, steps=steps)
        return values

    def _also_continues(self, index: int, state: SegmentState) -> tuple[str, ...]:
        """As `rerender` was told; a segment that is redone with the result it had keeps what continued from it."""
        if self._continues is not None:
            return self._continues
        older = self._last_record(index)
        return older.also_continues if older is not None and older.state == state.identity() else ()

    def _save(
        self, output: SegmentOutput, state: SegmentState, previous: str, seed: int | None, seconds: float
    ) -> None:
        """Writes one rendered segment and measures its drift."""
        frames = to_uint8(output.frames)
        record = SegmentRecord(
            index=output.index,
            key=self.key(output.index),
            previous_state=previous,
            state=state.identity(),
            frames_sha256=hash_frames(frames),
            num_frames=len(frames),
            seed=seed,
            run_seed=self.request.seed,
            also_continues=self._also_continues(output.index, state),
            timings={**output.timings, "total": seconds},
        )
        self.ledger.note_take(record)
        self.journal.emit("segment_saving", segment=output.index)
        self.store.save(record, frames, state, self.prepared.plan.fps)
        self.fresh.append(record)
        self.journal.emit(
            "segment_finished",
            segment=output.index,
            segments=len(self.segments),
            frames=len(frames),
            seconds=round(seconds, 3),
            folder=str(self.store.path(output.index)),
        )
        self.drift.measure(output.index, frames)


def _state_after(output: SegmentOutput) -> SegmentState:
    return SegmentState(
        history=output.history.detach().cpu(),
        generator_state=output.generator_state,
        next_generator_state=output.next_generator_state,
    )
