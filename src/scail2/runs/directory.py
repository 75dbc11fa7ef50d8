"""`RunDirectory`: one animation or replacement as a folder of files that can be inspected, stopped, resumed and corrected.

::

    RUN/request.json        what was asked (`AnimationRequest`)
    RUN/inputs.json         content hashes of the given files
    RUN/masks/              the masks (`MaskStore`), to look at and repaint
    RUN/plan.json, plan.png size, rate, segments and what preflight found; the contact sheet
    RUN/model.json          which model, identified by its content
    RUN/segments/NNN/       finished segments: lossless frames, float history, generator state, record, drift
    RUN/superseded/         replaced segments
    RUN/budget.json         seconds of the last rendering, predicted and measured
    RUN/drift.json, drift.png
    RUN/journal.jsonl       everything that happened
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scail2.errors import InputError
from scail2.files.documents import DocumentError
from scail2.files.ownership import LOCK, locked, make_folder, refuse_locked
from scail2.files.storage import is_present, plain_errors, stands
from scail2.request.animation import AnimationRequest
from scail2.request.masks import check_files
from scail2.request.paths import lies_inside, model_paths
from scail2.request.presets import preset
from scail2.runs.earlier_state import EarlierState
from scail2.runs.journal import Journal, Listener
from scail2.runs.layout import PENDING, check_genuine, delete, entries, keep_apart, what_lacks
from scail2.runs.ledger import STAGES, StageLedger
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.status import RunStatus, status_of

if TYPE_CHECKING:
    from scail2.budget.machines import Machine
    from scail2.pipeline import SCAIL2Pipeline
    from scail2.runs.model import PipelineCache
    from scail2.runs.preparation import Prepared
    from scail2.runs.task import RunTask

REQUEST, JOURNAL = "request.json", "journal.jsonl"


class RunDirectory:
    """A run on disk. Make one with `create`, come back to it with `open`."""

    def __init__(self, path: Path, request: AnimationRequest):
        self.path = path
        self.request = request
        self._earlier: EarlierState | None = None

    @classmethod
    def create(
        cls, path: str | Path, request: AnimationRequest, *, renders: bool = True, overwrite: bool = False
    ) -> Self:
        """Starts a run in a new or empty folder, or gives an existing run a changed request.

        With a changed request, whatever does not depend on the change is kept and the rest is made again. If the run is
        refused before anything is rendered, the folder is put back as it was, byte for byte, and a new one is gone; what was
        made of a new run stays only where its plan is refused once it has masks.

        Args:
            renders: False where nothing is to be written but masks and plan; then the outputs are not looked at.
            overwrite: replace what stands at the outputs' paths; without it only this run's own films are.

        Raises:
            InputError: see `check`.
        """
        path = cls._check(path, request, renders=renders, overwrite=overwrite)
        with plain_errors("make the run directory", path), _made_folder(path) as made:
            check_genuine(path)
            with locked(path):
                run = cls(path, request)
                run._remember(made=made, changed=is_present(path / REQUEST))
                ledger = _usable_ledger(path)
                if renders and overwrite:
                    ledger.ask(request.outputs)
                write_sealed(path / REQUEST, request.to_json())
                run._settle()
        return run

    @classmethod
    def check(cls, path: str | Path, request: AnimationRequest, *, overwrite: bool = False) -> None:
        """Everything that `create` would refuse; nothing is written.

        Raises:
            InputError: a file is missing; the output's name does not suit its codec; a file stands there that is not this
                run's; ``path`` is no run directory, in use, or would hold the output.
        """
        path = cls._check(path, request, renders=True, overwrite=overwrite)
        if stands(path):
            with plain_errors("read the run directory", path):
                check_genuine(path)
                refuse_locked(path)

    @classmethod
    def _check(cls, path: str | Path, request: AnimationRequest, *, renders: bool, overwrite: bool) -> Path:
        path = _own_place(path)
        check_files(request)
        from scail2.runs.film import check_name, refuse_foreign

        check_name(request)
        if request.preset is not None:
            preset(request.preset)
        with plain_errors("make the run directory", path):
            if stands(path) and not is_present(path / REQUEST) and not _is_free(path):
                raise InputError(f"{path} exists and is not a run directory; choose another --run-dir.")
            keep_apart(path, request)
            if renders and not overwrite:
                refuse_foreign(request, _readable_ledger(path))
        return path

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens an existing run; `InputError` when the folder is not one, or its request was changed by hand."""
        path = _own_place(path)
        with plain_errors("read the run directory", path):
            if not is_present(path / REQUEST):
                raise InputError(f"{path} is not a run directory: {what_lacks(path)}.")
            try:
                values = read_sealed(path / REQUEST, dict[str, Any])
            except DocumentError as error:
                raise DocumentError(
                    f"{error} To change a run, give its command again with the new settings and --run-dir {path}: what does "
                    "not depend on a change is kept."
                ) from error
            return cls(path, AnimationRequest.from_json(values))

    def execute(self, pipe: "SCAIL2Pipeline | PipelineCache | None" = None, *, events: Listener | None = None) -> Path:
        """Does whatever is missing or stale, up to the output file, and returns its path.

        Args:
            pipe: the model, or a cache of models; without it the request's is loaded, once something must be rendered.
            events: called with every `RunEvent`, in the calling thread.
        """
        return self._work(lambda task: task.run(), pipe, events, "run_started")

    def resume(
        self,
        pipe: "SCAIL2Pipeline | PipelineCache | None" = None,
        *,
        events: Listener | None = None,
        drift_limit: float | None = None,
        moved: Mapping[str, Any] | None = None,
        output: str | Path | None = None,
        codec: str | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Finishes an interrupted run as it was begun; refuses when a given file has changed since.

        Args:
            drift_limit: replaces the request's, to go on after it stopped the run.
            moved: where given files are now: names of the request's fields, and paths.
            output: write the film there from now on; its name chooses the codec, unless ``codec`` does. A film that the run
                wrote before stays where it is.
            overwrite: replace what stands at the output's path.
        """
        if moved:
            from scail2.runs.moved import at_new_places

            renewed = at_new_places(self.path, self.request, moved)
            self._change(**{name: getattr(renewed, name) for name in moved})
        if drift_limit is not None:
            self._change(drift_limit=drift_limit)
        if output is not None or codec is not None:
            self._redirect(output, codec, overwrite=overwrite)
        elif overwrite:
            self._ask()

        def finish(task: "RunTask") -> Path:
            task.check_unchanged()
            return task.run()

        return self._work(finish, pipe, events, "run_resumed")

    def rerender(
        self,
        segment: int,
        *,
        cascade: bool = False,
        seed: int | None = None,
        pipe: "SCAIL2Pipeline | PipelineCache | None" = None,
        events: Listener | None = None,
    ) -> Path:
        """Renders one finished segment (counted from 0) again and rewrites the output.

        Args:
            cascade: also render the segments after it again, since they continue from its last frames. Without it they
                stay, and a jump may show where the next one begins.
            seed: new noise for this segment, which stays with it until the run's own seed changes; without it the stored
                noise, which repeats the segment bit for bit while the one before it is the same.
        """

        def again(task: "RunTask") -> Path:
            task.order_rerender(segment, cascade=cascade, seed=seed)
            return task.run()

        return self._work(again, pipe, events, "rerender_started")

    def withdraw_rerender(self) -> None:
        """Takes back a `rerender` that was interrupted before its segment was finished; the version there is stays."""
        if is_present(self.path / PENDING):
            self._work(lambda task: task.withdraw_rerender(), None, None, "rerender_withdrawn")

    def plan(
        self,
        *,
        pipe: "SCAIL2Pipeline | PipelineCache | None" = None,
        events: Listener | None = None,
        machine: "Machine | None" = None,
    ) -> "Prepared":
        """Makes masks and plan without rendering; a later `execute` reuses both.

        ``machine`` is one to reckon with instead of this (`scail2.budget.machines.named_machine`).
        """
        return self._work(lambda task: task.plan(machine), pipe, events, "plan_started")

    def status(self) -> RunStatus:
        """What is there and what is missing, read from the files (also while another process works on it)."""
        with plain_errors("read", self.path):
            check_genuine(self.path)
            return status_of(self.path, self.request)

    def clean(self, *, everything: bool = False) -> int:
        """Deletes replaced segments and leftovers of interrupted writes, and returns the bytes freed.

        Only files that the run itself made are deleted, never links, inputs or anything of the user's. ``everything``
        deletes all of the run's own files, and the directory if nothing else is in it; it refuses where an output or an
        input (a model or LoRA too) lies in there.
        """
        if everything:
            self._refuse_deleting_others()
        with plain_errors("clean", self.path), locked(self.path):
            own = [each for each in entries(self.path) if each.relative != LOCK]
            if not everything:
                own = [each for each in own if each.temporary or each.relative.startswith("superseded")]
            freed = delete(own, self._read_paths)
            if everything:
                freed += delete([each for each in entries(self.path) if each.relative == LOCK])
                if not os.listdir(self.path) and not self.path.is_symlink():
                    self.path.rmdir()
        return freed

    @property
    def _read_paths(self) -> list[Path]:
        """Everything that the request reads: pictures, videos, masks, model and LoRAs."""
        given = [path for _, path in self.request.input_files]
        return given + model_paths(self.request.model, self.request.lora)

    def _refuse_deleting_others(self) -> None:
        for path in (*self.request.outputs, *self._read_paths):
            if stands(path) and lies_inside(path, self.path):
                raise InputError(
                    f"{path} lies inside {self.path} and would be deleted with it; move it elsewhere first."
                )

    def journal(self, listener: Listener | None = None) -> Journal:
        """The run's journal."""
        return Journal(self.path / JOURNAL, listener)

    def _redirect(self, output: str | Path | None, codec: str | None, *, overwrite: bool) -> None:
        """Gives the run another output; what does not suit, or is somebody else's, is refused first."""
        changed = self.request.with_changes(output=output or self.request.output, codec=codec)
        self._check(self.path, changed, renders=True, overwrite=overwrite)
        self._change(output=changed.output, codec=changed.codec)
        if overwrite:
            self._ask()

    def _ask(self) -> None:
        """Notes that what stands at the outputs' paths may be replaced."""
        with plain_errors("write to", self.path), locked(self.path):
            self._remember(changed=True)
            StageLedger(self.path).ask(self.request.outputs)
            self._settle()

    def _remember(self, *, made: bool = False, changed: bool = False) -> None:
        """Keeps what a refusal of the coming work puts back."""
        if self._earlier is None:
            self._earlier = EarlierState(self.path, made=made, changed=changed)

    def _settle(self) -> None:
        if self._earlier is not None:
            self._earlier.settle()

    def _accepted(self) -> None:
        self._earlier = None

    def _change(self, **changes: Any) -> None:
        self.request = self.request.with_changes(**changes)
        with plain_errors("write to", self.path), locked(self.path):
            self._remember(changed=True)
            write_sealed(self.path / REQUEST, self.request.to_json())
            self._settle()

    def _work(
        self,
        action: Callable[["RunTask"], Any],
        pipe: "SCAIL2Pipeline | PipelineCache | None",
        events: Listener | None,
        event: str,
    ) -> Any:
        from scail2.runs.task import RunTask

        with plain_errors("work in", self.path):
            check_genuine(self.path)
        with plain_errors("write to", self.path), locked(self.path):
            keep_apart(self.path, self.request)
            journal = self.journal(events)
            with self._restoring(event), _journalled(journal):
                delete([each for each in entries(self.path) if each.temporary], self._read_paths)
                journal.emit(event, run=str(self.path), output=str(self.request.output))
                return action(RunTask(self.path, self.request, journal, pipe, self._accepted))

    @contextmanager
    def _restoring(self, event: str) -> Iterator[None]:
        """Puts the run back as it was where it is refused before anything is rendered."""
        if self._earlier is not None and not self._earlier.is_settled:
            self._earlier = None  # another process has worked on it since
        if self._earlier is not None and self._earlier.is_new and event not in ("run_started", "plan_started"):
            self._earlier = None  # only a run's own beginning takes it away again
        self._remember()
        try:
            yield
        except InputError as error:
            earlier, self._earlier = self._earlier, None
            if earlier is not None and not earlier.may_be_looked_at(error, planned=event == "plan_started"):
                earlier.restore()
            raise
        self._earlier = None


def _own_place(path: str | Path) -> Path:
    """An absolute path that does not lead through folders of the run itself, which may be deleted: ``RUN/segments/..``."""
    path = Path(path).absolute()
    return path.resolve() if ".." in path.parts else path


@contextmanager
def _made_folder(path: Path) -> Iterator[bool]:
    """Makes a run's folder, and tells whether it did; where the run is refused before it has a request, it is gone again."""
    made = not stands(path)
    make_folder(path)
    try:
        yield made
    except InputError:
        if made and set(os.listdir(path)) <= {LOCK}:
            (path / LOCK).unlink(missing_ok=True)
            path.rmdir()
        raise


def _is_free(path: Path) -> bool:
    """Whether a run may begin here: an empty folder, or one in which a run could not even write its request."""
    if not path.is_dir():
        return False
    early = {each.path.name for each in entries(path) if each.temporary or each.relative in (LOCK, STAGES)}
    return set(os.listdir(path)) <= early


def _readable_ledger(path: Path) -> StageLedger:
    """The run's notes; none of a damaged file, which makes room for new ones when the run is begun anew."""
    try:
        return StageLedger(path)
    except DocumentError:
        return StageLedger.empty(path)


def _usable_ledger(path: Path) -> StageLedger:
    """The run's notes; a damaged file of them makes room for new ones, since the run is begun anew."""
    try:
        return StageLedger(path)
    except DocumentError:
        (path / STAGES).unlink()
        return StageLedger(path)


@contextmanager
def _journalled(journal: Journal) -> Iterator[None]:
    """Writes down how the work ended when it did not end well."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError, InputError):
            journal.emit("interrupted")
        raise
    except Exception as error:
        # A full disk refuses this line too; the error itself still reaches the caller.
        with suppress(OSError, InputError):
            journal.emit("failed", message=str(error))
        raise
