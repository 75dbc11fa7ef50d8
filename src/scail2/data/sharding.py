"""Filling a folder with shards: by any number of processes and commands, resumable shard by shard, of one kind of work."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from scail2.data.shards import ShardIndex, ShardWriter, index_path, load_index
from scail2.errors import InputError
from scail2.execution.crew import Crew, run_for_rank
from scail2.execution.tasks import Ended, Lost, Message, Outcome, Settled, Watch
from scail2.files.disk_errors import WRITING, naming
from scail2.files.documents import DocumentError, load_json
from scail2.files.ownership import InUseError, Kind, is_document, is_free, lock_beside, locked, shared_folder
from scail2.files.staging import atomic_file

CONTENTS = "shards.json"
"""In a complete folder: its shards, and the samples that could not be made."""

_CLAIMING = 500  # attempts, 20 ms apart: so many commands may begin at once


class ShardWork(Protocol):
    """What fills shards: picklable, a pure function of the shard's number."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts in which a continued run must agree."""

    def write_shard(self, writer: ShardWriter, number: int, watch: Watch) -> None:
        """Writes the samples of one shard; tells `watch` when one begins and ends, and leaves out those it says so of."""


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

    @property
    def held(self) -> str:
        """What the folder holds, in words."""
        return "cached samples" if self.name == "cache" else self.name

    def path(self, number: int) -> Path:
        """A shard's file."""
        return shard_path(self.directory, number)


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a run left behind.

    Attributes:
        written: samples that this command wrote, with its workers.
        held: samples that the folder holds.
        skipped: samples that could not be made, by key and reason.
        missing: shards that others were still making when this command ended.
    """

    directory: Path
    shards: int
    written: int
    held: int
    skipped: dict[str, str]
    missing: int = 0


def shard_path(directory: Path, number: int) -> Path:
    """Name of a folder's shard."""
    return directory / f"shard-{number:05d}.tar"


def run_shards(
    run: ShardRun,
    work: ShardWork,
    sizes: Sequence[int],
    *,
    crew: Crew,
    resume: bool,
    progress: Callable[[int, int], None] | None,
    listen: Callable[[Message], None] | None = None,
) -> ShardSummary:
    """Writes the shards that are missing, beside others that fill the same folder with the same work.

    Args:
        sizes: samples of each shard, for progress.
        resume: whether a folder begun by equal work may be continued.
        progress: called with (samples done, samples in total).
        listen: hears everything that the workers say.

    Raises:
        InputError: the folder holds something else, or other work's shards.
    """
    failed = False

    def leave(place: Path) -> None:
        _remove_locks(place)
        if failed and is_free(place, apart_from=run.description):
            # Work that cannot be done leaves no folder that the right one would have to be given another name for. Where it
            # left shards or journals, the same work goes on from there.
            (place / run.description).unlink(missing_ok=True)

    with shared_folder(run.directory, _kind(run), leave) as place:
        run = ShardRun(directory=place, name=run.name, shards=run.shards)
        begun = _claim(run, work, resume)
        try:
            summary = _fill(run, work, sizes, crew, _Ears(progress, listen, sizes))
            if not summary.held and not summary.missing:
                _refuse_empty(run, summary)
            return summary
        except InputError:
            failed = begun
            raise


def _refuse_empty(run: ShardRun, summary: ShardSummary) -> NoReturn:
    """Removes shards that hold nothing and says why they do."""
    for number in range(run.shards):
        for path in (index_path(run.path(number)), run.path(number)):
            path.unlink(missing_ok=True)
    (run.directory / CONTENTS).unlink(missing_ok=True)
    reasons = Counter(summary.skipped.values()).most_common(3)
    told = "; ".join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in reasons)
    raise InputError(f"Not one of {len(summary.skipped)} samples could be made: {told}.")


def _kind(run: ShardRun) -> Kind:
    """Folders of this run's sort of shards: whose, `_claim` tells apart."""
    return Kind(
        run.held, run.description, lambda folder: is_document(folder / run.description, {"format", "source", "seed"})
    )


def _fill(run: ShardRun, work: ShardWork, sizes: Sequence[int], crew: Crew, ears: "_Ears") -> ShardSummary:
    surplus = sorted(path.name for path in run.directory.glob("shard-*.tar"))[run.shards :]
    if surplus:
        raise InputError(
            f"{run.directory} already holds more than is asked for ({surplus[-1]}): ask for as many or choose another folder"
        )
    tasks = _ShardTasks(run, work, tuple(sizes))
    for number in filter(tasks.is_done, range(run.shards)):
        ears.hear(Settled(number, Outcome.THERE))
    ears.tell()
    report = run_for_rank(tasks, range(run.shards), crew, ears.hear)
    held = [_index(run.path(number)) for number in range(run.shards)]
    missing = sum(len(each.samples) + len(each.skipped) < size for each, size in zip(held, sizes, strict=True))
    if not missing:
        _write_contents(run, held)
    skipped = {key: reason for each in held for key, reason in each.skipped.items()}
    written, total = (sum(len(held[n].samples) for n in numbers) for numbers in (report.made, range(run.shards)))
    return ShardSummary(run.directory, run.shards, written, total, skipped, missing)


def _write_contents(run: ShardRun, held: Sequence[ShardIndex]) -> None:
    """The same bytes whoever writes them, so that it does not matter who sees the last shard come."""
    shards = [
        {"name": run.path(number).name, "bytes": each.bytes, "samples": len(each.samples)}
        for number, each in enumerate(held)
    ]
    skipped = {key: reason for each in held for key, reason in sorted(each.skipped.items())}
    content = {"samples": sum(len(each.samples) for each in held), "shards": shards, "skipped": skipped}
    with atomic_file(run.directory / CONTENTS) as file:
        file.write(json.dumps(content, indent=1).encode())


@dataclass(frozen=True, slots=True)
class _ShardTasks:
    """Shards as numbered work."""

    run: ShardRun
    work: ShardWork
    sizes: tuple[int, ...]

    def prepare(self) -> None:
        import torch

        torch.set_num_threads(1)

    def place(self, number: int) -> Path:
        return self.run.path(number)

    def is_done(self, number: int) -> bool:
        """A shard from less work holds fewer samples than it should."""
        index = _index(self.place(number))
        return len(index.samples) + len(index.skipped) >= self.sizes[number]

    def perform(self, number: int, watch: Watch) -> None:
        with naming(self.place(number), WRITING), ShardWriter(self.place(number)) as writer:
            self.work.write_shard(writer, number, watch)


def _index(shard: Path) -> ShardIndex:
    """What a shard says it holds; nothing where it is missing, damaged or not the size it was written with."""
    with suppress(FileNotFoundError, DocumentError):
        index = load_index(shard)
        if index.bytes == shard.stat().st_size:
            return index
    return ShardIndex(bytes=0, samples=[])


class _Ears:
    """Progress from what is heard: samples that are done, in whichever process; those of a lost attempt count no longer."""

    def __init__(
        self,
        progress: Callable[[int, int], None] | None,
        listen: Callable[[Message], None] | None,
        sizes: Sequence[int],
    ) -> None:
        self._progress, self._listen, self._sizes = progress, listen, sizes
        self._whole: set[int] = set()
        self._parts: dict[int, dict[str, int]] = {}

    def hear(self, message: Message) -> None:
        if isinstance(message, Ended):
            self._parts.setdefault(message.number, {})[message.item] = message.count
            self.tell()
        elif isinstance(message, Lost | Settled):
            self._parts.pop(message.number, None)
            if isinstance(message, Settled) and message.outcome is not Outcome.HELD:
                self._whole.add(message.number)
        if self._listen is not None:
            self._listen(message)

    def tell(self) -> None:
        if self._progress is not None:
            done = sum(self._sizes[number] for number in self._whole)
            self._progress(done + sum(sum(each.values()) for each in self._parts.values()), sum(self._sizes))


def _claim(run: ShardRun, work: ShardWork, resume: bool) -> bool:
    """Makes the folder this work's: writes its description (True), or checks that the one there is the same (False)."""
    path = run.directory / run.description
    described = json.loads(json.dumps(work.describe()))
    with locked(path, lock_beside(path), attempts=_CLAIMING):
        if not path.exists():
            with atomic_file(path) as file:
                file.write(json.dumps(described, indent=1).encode())
            return True
    if not resume:
        raise InputError(f"{run.directory} already holds {run.held}: go on with --resume or choose another folder")
    old = load_json(path, dict[str, Any])
    changed = [key for key in described if old.get(key) != described[key]]
    if changed:
        raise InputError(f"{run.directory} was made with another {', '.join(changed)}: choose another folder")
    return False


def _remove_locks(place: Path) -> None:
    """Locks of shards that killed processes left behind; such a lock is free."""
    for path in place.glob(".shard-*.lock"):
        with suppress(InUseError), locked(place, path, attempts=1):
            pass  # given back, it is gone
