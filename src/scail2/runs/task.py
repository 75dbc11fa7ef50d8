"""The work on one run while its lock is held: prepare, render, measure, write."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scail2.errors import InputError
from scail2.files.documents import Between, DocumentError
from scail2.files.storage import is_present
from scail2.files.user_paths import split_lora
from scail2.request import values
from scail2.request.animation import AnimationRequest
from scail2.runs.budgeting import note_outcome
from scail2.runs.executor import Executor
from scail2.runs.film import refuse_lost
from scail2.runs.journal import Journal
from scail2.runs.layout import PENDING
from scail2.runs.model import ModelHandle, PipelineCache
from scail2.runs.moved import refuse_missing
from scail2.runs.output import OutputStage
from scail2.runs.preparation import Preparation, Prepared, changed_inputs
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.segment_store import SegmentStore
from scail2.runs.verdict import stored_verdict

if TYPE_CHECKING:
    from scail2.budget.machines import Machine
    from scail2.pipeline import SCAIL2Pipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """A segment that is to be rendered again: its seed, what may still continue from its older versions, its state."""

    segment: Annotated[int, Between(0, 10**9)]
    seed: int | None
    continues: tuple[str, ...]
    replaces: str = ""


class RunTask:
    """One piece of work on a run. The caller holds the run's lock; ``accepted`` is called once nothing can refuse it."""

    def __init__(
        self,
        folder: Path,
        request: AnimationRequest,
        journal: Journal,
        pipe: "SCAIL2Pipeline | PipelineCache | None" = None,
        accepted: Callable[[], None] = lambda: None,
    ):
        self.accepted = accepted
        self.folder = folder
        self.request = request
        self.journal = journal
        self.model = ModelHandle(request, pipe, folder)
        self.store = SegmentStore(folder)
        self.preparation = Preparation(folder, request, self.model, journal)

    def prepare(self) -> Prepared:
        """Masks, plan and preflight; nothing is rendered."""
        return self.preparation.prepare()

    def plan(self, machine: "Machine | None" = None) -> Prepared:
        """The same, for another machine than this where one is given; notes which segments and films are not as asked."""
        self.preparation.machine = machine
        prepared = self.prepare()
        self._executor(prepared).note_stale()
        self._output(prepared).note_stale()
        return prepared

    def _output(self, prepared: Prepared) -> OutputStage:
        return OutputStage(self.store, self.request, prepared, self.preparation.ledger, self.journal)

    def _executor(self, prepared: Prepared) -> "Executor":
        from scail2.runs.executor import Executor  # with torch, which a plan does without

        return Executor(self.store, self.request, prepared, self.model, self.journal, self.preparation.ledger)

    def run(self) -> Path:
        """Does whatever is missing or stale, a waiting re-rendering first, and returns the output's path."""
        for path in self.request.outputs:
            refuse_lost(path, self.preparation.ledger)
        prepared = self.prepare()
        executor = self._executor(prepared)
        executor.note_stale()
        self.accepted()
        self._rerender_pending(executor)
        rendered = executor.render()
        outcome = note_outcome(self.folder, prepared.budget, prepared.facts.shape, executor.fresh)
        if outcome is not None:
            self.journal.emit("budget", **outcome)
        executor.note_stale()
        executor.drift.finish()
        self._tell_verdict()
        output = self._output(prepared).write()
        self.journal.emit("run_finished", output=str(output), rendered=rendered, segments=len(executor.segments))
        return output

    def _tell_verdict(self) -> None:
        """What the measures of the whole run come to, as an event."""
        records = {index: self.store.known(index) for index in self.store.finished()}
        found = stored_verdict(self.folder, self.request, records)
        if found is not None:
            self.journal.emit("verdict", **found.to_json())

    def check_unchanged(self) -> None:
        """Refuses to continue with other files or another model than the run began with."""
        refuse_missing(self.folder, self.request)
        changed = changed_inputs(self.folder, self.request)
        if changed:
            raise InputError(
                f"The file given as {changed[0]} has changed since this run began; put the old one back, or run the "
                "original command again to render what depends on it anew."
            )
        if not self.model.unchanged_since(self.folder):
            raise InputError(
                f"The model {self._told_model()} has changed since this run began; put the old one back, or run the original "
                "command again to render everything anew."
            )

    def _told_model(self) -> str:
        """What a run knows its model by: the model's name, and the LoRAs, whose content is part of it."""
        name = self.request.model or "embedded in scail2"
        loras = ", ".join(split_lora(each)[0] for each in self.request.lora)
        return f"{name} or a LoRA on it ({loras})" if loras else name

    def order_rerender(self, segment: int, *, cascade: bool, seed: int | None) -> None:
        """Notes that a segment is to be rendered again, so that it happens even if this process is killed.

        Without ``seed`` the segment keeps the one it was last rendered with. Refuses a segment that was never rendered.
        """
        if seed is not None:
            values.seed("--seed", seed)
        self.check_unchanged()
        finished = self.store.finished()
        if segment not in finished:
            told = f"0 to {finished[-1]}" if finished else "none yet"
            raise InputError(f"Segment {segment} of {self.folder} is not rendered; finished are {told}.")
        record = self.store.known(segment)
        order = _Order(
            segment=segment,
            seed=record.seed if seed is None else seed,
            continues=() if cascade else record.accepted_states(),
            replaces=record.state,
        )
        write_sealed(self.folder / PENDING, asdict(order))
        self.journal.emit("rerender_ordered", segment=segment)

    def withdraw_rerender(self) -> None:
        """Forgets a segment that waits to be rendered again: its present version stays."""
        (self.folder / PENDING).unlink(missing_ok=True)

    def _rerender_pending(self, executor: "Executor") -> None:
        path = self.folder / PENDING
        if not is_present(path):
            return
        try:
            order = read_sealed(path, _Order)
            if order.replaces and order.replaces not in self.store.known_states(order.segment):
                raise DocumentError(f"{path} orders a segment to be rendered again that this run never had.")
        except DocumentError as error:
            raise DocumentError(f"{error} Delete it, and give `scail2 rerender` again if it was meant.") from error
        index = order.segment
        if index < len(executor.segments) and (index == 0 or self.store.record(index - 1) is not None):
            executor.rerender(index, seed=order.seed, continues=order.continues)
        path.unlink()
