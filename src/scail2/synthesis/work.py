"""A plan as work on shards: pairs are brought to their end by the loop and written; journals stay beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scail2.data.endpoint.account import Account
from scail2.data.pairs import pair_members
from scail2.data.sharding import ShardRun, ShardSummary, run_shards
from scail2.data.shards import ShardWriter
from scail2.errors import InputError
from scail2.execution.crew import Crew
from scail2.execution.overlap import overlapped
from scail2.execution.stages import StageBoard
from scail2.execution.tasks import Message, Watch
from scail2.synthesis.assembly import assembled
from scail2.synthesis.bench import Bench, Job
from scail2.synthesis.events import Phase, Reason
from scail2.synthesis.journal import PairJournal
from scail2.synthesis.loop import PairLoop
from scail2.synthesis.plan import SynthesisPlan, make_bench
from scail2.synthesis.stages import ASSEMBLE, stage_board
from scail2.synthesis.store import Store

FORMAT = 1
NAME = "pairs"
JOURNALS = "journal"
_IN_A_ROW = 8  # what fails time after time is not the pairs' fault


@dataclass(frozen=True, kw_only=True)
class PlanWork:
    """Pairs of a plan. Picklable; what works for it (models, an endpoint's client) is made anew in each process.

    Attributes:
        folder: of the shards; journals and what is in the making lie in it.
        where: the plan's name, for errors.
    """

    plan: SynthesisPlan
    folder: Path
    where: str

    def __getstate__(self) -> dict[str, Any]:
        return {"plan": self.plan, "folder": self.folder, "where": self.where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def bench(self) -> Bench:
        """What works; what an endpoint is asked for counts against one budget, whoever works in the folder, and whenever."""
        return make_bench(self.plan, self.where, Account(file=self.folder / JOURNALS / "endpoint.json"))

    @cached_property
    def jobs(self) -> list[Job]:
        """All pairs."""
        return [Job(key=f"{n:07d}", number=n, kind=kind) for n, kind in enumerate(self.plan.kinds())]

    def describe(self) -> dict[str, Any]:
        """What a continued run must agree in."""
        return {
            "format": FORMAT,
            "source": self.bench.describe(),
            "shares": {kind.value: share for kind, share in self.plan.shares.items()},
            "attempts": self.plan.attempts,
            "pairs_per_shard": self.plan.pairs_per_shard,
            "seed": self.plan.seed,
        }

    def write_shard(self, writer: ShardWriter, number: int, watch: Watch) -> None:
        """Brings the pairs of one shard to their end."""
        first = number * self.plan.pairs_per_shard
        loop, jobs = self.loop(number), self.jobs[first : first + self.plan.pairs_per_shard]
        self._board.listen = watch.report

        def make(place: int, key: str) -> "_Written | str":
            return self._make(loop, jobs[place])

        keys, silent = [job.key for job in jobs], 0
        for job, made in zip(
            jobs, overlapped(keys, make, watch, self._board, in_flight=self.plan.in_flight), strict=True
        ):
            reason = made.result if isinstance(made.result, str) else made.reason
            silent = silent + 1 if isinstance(made.result, str) and made.result.startswith(Reason.NO_ANSWER) else 0
            if silent >= _IN_A_ROW:
                raise InputError(f"{silent} pairs in a row were given up for want of answers, the last with {reason}")
            if isinstance(made.result, _Written):
                writer.write(job.key, made.result.meta, made.result.members)
                self._board.count()
            else:
                writer.skip(job.key, f"{job.kind.value}: {reason}")
        self._board.report()

    def _make(self, loop: PairLoop, job: Job) -> "_Written | str":
        """A pair as it is stored; the reason where there is none."""
        state = loop.run(job, self.plan.attempts)
        if state.phase is not Phase.ACCEPTED:
            assert state.cause is not None
            return f"{state.cause.value}: {state.trouble}" if state.cause is Reason.NO_ANSWER else state.cause.value
        with self._board.at(ASSEMBLE, job.number):
            meta, members = pair_members(assembled(loop, job, state))
        return _Written({**meta, "num_parts": self.bench.motions.num_parts}, members)

    @cached_property
    def _board(self) -> StageBoard:
        return stage_board(self.plan)

    def loop(self, number: int) -> PairLoop:
        """The loop of one shard, from where its journal says that it stands."""
        journal = PairJournal(journal_path(self.folder, number), self.plan.budget)
        return PairLoop(self.bench, journal, Store(_making(self.folder) / f"shard-{number:05d}"), self._board)


@dataclass(frozen=True, slots=True)
class _Written:
    """A pair's record and members."""

    meta: dict[str, Any]
    members: dict[str, bytes]


def journal_path(folder: Path, number: int) -> Path:
    """Where the journal of a shard lies."""
    place = folder / JOURNALS
    place.mkdir(parents=True, exist_ok=True)
    return place / f"shard-{number:05d}.jsonl"


def _making(folder: Path) -> Path:
    return folder / "making"


def carry_out(
    work: PlanWork,
    *,
    crew: Crew,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    listen: Callable[[Message], None] | None = None,
) -> ShardSummary:
    """Writes the shards that are not there yet; arguments and errors as `run_shards`. What was in the making is cleared away when
    all shards are there."""
    size, pairs = work.plan.pairs_per_shard, work.plan.pairs
    run = ShardRun(directory=work.folder, name=NAME, shards=-(-pairs // size))
    sizes = [min(pairs, (n + 1) * size) - n * size for n in range(run.shards)]
    summary = run_shards(run, work, sizes, crew=crew, resume=resume, progress=progress, listen=listen)
    if not summary.missing:
        Store(_making(work.folder)).clear()
    return summary
