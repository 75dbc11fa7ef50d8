"""Filling a folder with shards: on all cores, resumable shard by shard, never mixing two kinds of work."""

import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn, Protocol

from scail2.data.shards import ShardIndex, ShardWriter, index_path, load_index
from scail2.errors import InputError
from scail2.files.disk_errors import WRITING, naming
from scail2.files.documents import DocumentError, load_json
from scail2.files.ownership import Kind, claimed_folder, is_document
from scail2.files.staging import atomic_file


class ShardWork(Protocol):
    """What fills shards: picklable, a pure function of the shard's number."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""

    def write_shard(self, writer: ShardWriter, number: int, tick: Callable[[int], None]) -> None:
        """Writes the samples of one shard; calls `tick(count)` as they are done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRun:
    """Where shards go: `DIRECTORY/shard-00000.tar` …, described by `DIRECTORY/NAME.json`."""

    directory: Path
    name: str
    shards: int

    @property
    def description(self) -> str:
        """Name of the file that says what the folder was made of."""
        return f"{self.name}.json"

    def path(self, number: int) -> Path:
        """A shard's file."""
        return shard_path(self.directory, number)


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a run left behind: samples written now, samples in all, and samples that could not be made, by key and reason."""

    directory: Path
    shards: int
    written: int
    held: int
    skipped: dict[str, str]


def shard_path(directory: Path, number: int) -> Path:
    """Name of a folder's shard."""
    return directory / f"shard-{number:05d}.tar"


def run_shards(
    run: ShardRun,
    work: ShardWork,
    sizes: Sequence[int],
    *,
    workers: int,
    resume: bool,
    progress: Callable[[int, int], None] | None,
    start_worker: Callable[[], None] | None = None,
) -> ShardSummary:
    """Writes the shards that are missing.

    Args:
        sizes: samples of each shard, for progress.
        workers: processes; 1 works in this one.
        resume: whether a folder begun by equal work may be continued.
        progress: called with (samples done, samples in total).
        start_worker: called in each worker process before anything else is imported there; a function of a module.

    Raises:
        InputError: the folder holds something else, or other work's shards.
    """
    with claimed_folder(run.directory, _kind(run)):
        begun = _claim(run, work, resume)
        try:
            summary = _fill(run, sizes, work, _Crew(workers, start_worker), progress)
            if not summary.held:
                _refuse_empty(run, summary)
            return summary
        except InputError:
            # Work that cannot be done leaves no folder that the right one would have to be given another name for.
            if begun and not any(run.directory.glob("shard-*.tar")):
                (run.directory / run.description).unlink(missing_ok=True)
            raise


def _refuse_empty(run: ShardRun, summary: ShardSummary) -> NoReturn:
    """Removes shards that hold nothing and says why they do."""
    for number in range(run.shards):
        for path in (index_path(run.path(number)), run.path(number)):
            path.unlink(missing_ok=True)
    reasons = Counter(summary.skipped.values()).most_common(3)
    told = "; ".join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in reasons)
    raise InputError(f"Not one of {len(summary.skipped)} samples could be made: {told}.")


def _kind(run: ShardRun) -> Kind:
    """Folders of this run's sort of shards: whose, `_claim` tells apart."""
    return Kind(
        run.name, run.description, lambda folder: is_document(folder / run.description, {"format", "source", "seed"})
    )


def _fill(
    run: ShardRun,
    sizes: Sequence[int],
    work: ShardWork,
    crew: "_Crew",
    progress: Callable[[int, int], None] | None,
) -> ShardSummary:
    surplus = sorted(path.name for path in run.directory.glob("shard-*.tar"))[run.shards :]
    if surplus:
        raise InputError(
            f"{run.directory} already holds more than is asked for ({surplus[-1]}): ask for as many or choose another folder"
        )
    wanted = [number for number in range(run.shards) if _held(run.path(number)) < sizes[number]]
    missing = sum(sizes[number] for number in wanted)
    ticker = _Ticker(progress, sum(sizes) - missing, sum(sizes))
    if crew.size <= 1 or len(wanted) <= 1:  # a process takes longer to start than most shards take
        for number in wanted:
            _write(run, work, number, ticker.advance)
    else:
        _in_processes(run, work, wanted, crew, ticker)
    skipped: dict[str, str] = {}
    written = held = 0
    for number in range(run.shards):
        index = _index(run.path(number))
        skipped |= index.skipped
        held += len(index.samples)
        written += len(index.samples) if number in wanted else 0
    return ShardSummary(run.directory, run.shards, written, held, skipped)


def _index(shard: Path) -> ShardIndex:
    """What a shard says it holds; nothing where it is missing, damaged or not the size it was written with."""
    with suppress(FileNotFoundError, DocumentError):
        index = load_index(shard)
        if index.bytes == shard.stat().st_size:
            return index
    return ShardIndex(bytes=0, samples=[])


def _held(shard: Path) -> int:
    """Samples in a shard and samples that it names as impossible; a shard from less work holds fewer than it should."""
    index = _index(shard)
    return len(index.samples) + len(index.skipped)


def _write(run: ShardRun, work: ShardWork, number: int, tick: Callable[[int], None]) -> None:
    with naming(run.path(number), WRITING), ShardWriter(run.path(number)) as writer:
        work.write_shard(writer, number, tick)


class _Ticker:
    def __init__(self, progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
        self.progress, self.done, self.total = progress, done, total
        self.advance(0)

    def advance(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)


# Worker processes: the work is sent once, a shared counter carries progress back.
_worker: dict[str, Any] = {}


def _end_with_parent() -> None:
    """A killed command has no chance to end its workers: they would fill the folder beside its successor, or wait for ever."""
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)


@dataclass(frozen=True, slots=True)
class _Crew:
    """Worker processes: how many, and what each does first."""

    size: int
    start: Callable[[], None] | None


def _start_worker(start: Callable[[], None] | None, pickled: bytes, counter: Any) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start()
    import torch

    torch.set_num_threads(1)
    run, work = pickle.loads(pickled)  # not sooner: it imports what the work is made of
    _worker.update(run=run, work=work, counter=counter)


def _shard_task(number: int) -> None:
    def tick(count: int) -> None:
        with _worker["counter"].get_lock():
            _worker["counter"].value += count

    _write(_worker["run"], _worker["work"], number, tick)


def _in_processes(run: ShardRun, work: ShardWork, wanted: list[int], crew: _Crew, ticker: _Ticker) -> None:
    context = get_context("spawn")  # forking a process that has used torch's threads can hang
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(
        min(crew.size, len(wanted)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(crew.start, pickle.dumps((run, work)), counter),
    )
    try:
        waiting: set[Future[None]] = {pool.submit(_shard_task, number) for number in wanted}
        seen = 0
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            ticker.advance(counter.value - seen)
            seen = counter.value
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    ticker.advance(counter.value - seen)


def _claim(run: ShardRun, work: ShardWork, resume: bool) -> bool:
    """Makes the folder this work's: writes its description (True), or checks that the one there is the same (False)."""
    path = run.directory / run.description
    described = json.loads(json.dumps(work.describe()))
    if path.exists():
        if not resume:
            raise InputError(f"{run.directory} already holds {run.name}: go on with --resume or choose another folder")
        old = load_json(path, dict[str, Any])
        changed = [key for key in described if old.get(key) != described[key]]
        if changed:
            raise InputError(f"{run.directory} was made with another {', '.join(changed)}: choose another folder")
        return False
    with atomic_file(path) as file:
        file.write(json.dumps(described, indent=1).encode())
    return True
