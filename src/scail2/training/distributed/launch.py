"""Starting the processes of a training on one machine, and seeing all of them to their end.

They are forked from one server process that has imported everything, so that a machine with eight cards does not import PyTorch
eight times. A process that fails ends the training: the others wait for it in vain. The launcher keeps no state: what was trained
is in the checkpoints, and the same command goes on from there.
"""

import logging
import math
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any

from scail2.errors import NO_MEMORY, InputError, is_out_of_memory
from scail2.training.distributed.layout import Layout, Place
from scail2.training.job import TrainingJob

logger = logging.getLogger(__name__)

_PRELOADED = "scail2.training.distributed.rank"
START_METHOD = "forkserver"
# Time to end by themselves for those whose partner has failed: most notice at once.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a process ended before its time: what it said itself (whether the user's mistake) and when, or its exit code.

    ``at`` is in seconds of the machine's monotonic clock, which all its processes share; infinite where nothing was said.
    """

    rank: int
    said: str | None
    mistake: bool
    at: float
    code: int | None


def launch(
    job: TrainingJob, layout: Layout, begin: Callable[[int], None] | None = None, preloaded: str = _PRELOADED
) -> None:
    """Trains with ``layout.processes`` processes of this machine; returns when all are done.

    Args:
        begin: called in each process with its number before anything else; a function of a module.
        preloaded: the module that is imported before processes are forked.

    Raises:
        InputError: a process found a mistake, failed or was killed; all others have ended.
        KeyboardInterrupt: it was stopped before training began.
    """
    context: Any = get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([preloaded])
    with tempfile.TemporaryDirectory(prefix="scail2-") as folder:
        crew: list[_Member] = []
        try:
            for rank in range(layout.processes):
                crew.append(_Member(context, (job, layout, rank, f"file://{folder}/rendezvous", begin)))
            failure = _watch(crew)
        finally:
            for member in crew:
                member.kill()
    if failure is not None:
        raise _as_error(failure, job, layout)


class _Member:
    """A process, and the pipe by which it tells why it fails."""

    def __init__(self, context: Any, work: tuple) -> None:
        self.rank: int = work[2]
        self.told, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(*work, theirs), name=f"rank {self.rank}")
        self.process.start()
        theirs.close()

    def failure(self) -> _Failure | None:
        """Why it ended; None while it runs, or where it did all there was to do."""
        code = self.process.exitcode
        if not code:
            return None
        said, mistake, at = None, False, math.inf
        with suppress(EOFError, OSError):  # a killed process says nothing
            said, mistake, at = self.told.recv()
        return _Failure(self.rank, said, mistake, at, code)

    def kill(self) -> None:
        """Ends it whatever it does."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _watch(crew: Sequence[_Member]) -> _Failure | None:
    """Waits for all; after the first that fails only as long as the others take to notice. The failure that began it."""
    deadline, asked = None, 0
    failed: dict[int, _Failure] = {}
    while running := [member for member in crew if member.process.is_alive()]:
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            wait([member.process.sentinel for member in running], timeout=left)
            failed |= _failures(crew, failed)
        except KeyboardInterrupt:
            # As Ctrl-C in a training of one process: the first ends it after the step, the second at once.
            asked += 1
            for member in running:
                (member.process.terminate if asked == 1 else member.process.kill)()
        if failed and deadline is None:
            deadline = time.monotonic() + _GRACE_SECONDS
        if deadline is not None and time.monotonic() >= deadline:
            break
    failed |= _failures(crew, failed)
    if asked and failed:
        raise KeyboardInterrupt
    return min(failed.values(), key=_consequence, default=None)


def _failures(crew: Sequence[_Member], known: dict[int, _Failure]) -> dict[int, _Failure]:
    found = ((member.rank, member.failure()) for member in crew if member.rank not in known)
    return {rank: failure for rank, failure in found if failure is not None}


def _consequence(failure: _Failure) -> tuple[int, float]:
    """How likely a failure is only what followed from another: a killed process says nothing, its partners say much, later."""
    if failure.code is not None and failure.code < 0:
        return 0, failure.at
    return 1 if failure.mistake else 2, failure.at


def _as_error(failure: _Failure, job: TrainingJob, layout: Layout) -> InputError:
    if failure.mistake and failure.said:
        return InputError(failure.said)
    who = f"Process {failure.rank} of {layout.processes} (counted from 0)"
    if failure.code is not None and failure.code < 0:
        name = signal.Signals(-failure.code).name
        why = f"was ended by {name}" + (", often for want of memory" if name == "SIGKILL" else "")
    else:
        why = f"failed: {failure.said or f'exit code {failure.code}'}"
    return InputError(f"{who} {why}. The others were stopped; {_way_on(job.output)}")


def _way_on(output: Path) -> str:
    states = sorted(path.parent.name for path in (output / "checkpoints").glob("step-*/progress.json"))
    if not states:
        return "there is no checkpoint yet: the same command begins again."
    return f"the same command goes on from the checkpoint of step {int(states[-1].removeprefix('step-'))}."


# ---- in the processes ------------------------------------------------------------------------------------------------


def _work(
    job: TrainingJob,
    layout: Layout,
    rank: int,
    rendezvous: str,
    begin: Callable[[int], None] | None,
    tell: Connection,
) -> None:
    def say_why(text: str, mistake: bool = False) -> None:
        tell.send((text, mistake, time.monotonic()))

    Thread(target=_end_with_launcher, daemon=True).start()
    if begin is not None:
        begin(rank)
    place = Place(rank, rank, layout.processes, layout.processes)
    try:
        from scail2.training.distributed.rank import train_as_one_of

        train_as_one_of(job, layout, place, _say, rendezvous)
    except InputError as error:
        say_why(str(error), mistake=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        if is_out_of_memory(error):
            say_why(NO_MEMORY)
        else:
            say_why(traceback.format_exception_only(error)[-1].strip())
            logger.debug("rank %d failed", rank, exc_info=True)
        code = 1
    else:
        code = 0
    tell.close()
    os._exit(code)  # threads of a broken connection must not keep it alive


def _say(text: str) -> None:
    os.write(1, (text + "\n").encode(errors="backslashreplace"))


def _end_with_launcher() -> None:
    """A killed launcher has no chance to end its processes."""
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)
