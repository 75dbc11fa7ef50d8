"""`scail2 synthesize` and `scail2 preferences`: pairs written as files that people can look at and any trainer can read."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scail2.data.pairs import pair_members
from scail2.data.preferences import PreferenceSource, Strictness, preference_members
from scail2.data.sharding import ShardRun, ShardSummary, run_shards
from scail2.data.shards import DamagedSample, ShardWriter
from scail2.data.sources import PairSource
from scail2.data.triplet_settings import SampleKind, TripletSettings
from scail2.errors import InputError
from scail2.execution.crew import Crew, as_crew
from scail2.execution.figures import Resource
from scail2.execution.overlap import overlapped
from scail2.execution.stages import StageBoard
from scail2.execution.tasks import Message, Watch

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SynthesisWork:
    """Pairs to make: constructions in the proportions of a recipe's kinds. Picklable.

    Attributes:
        triplets: only its shares count here; what becomes of a pair is decided when it is cached.
    """

    source: PairSource
    triplets: TripletSettings
    pairs: int
    pairs_per_shard: int = 32
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """What a continued run must agree in."""
        shares = {kind.value: share for kind, share in self.triplets.shares.items()}
        return {
            "format": FORMAT,
            "source": self.source.describe(),
            "shares": shares,
            "pairs_per_shard": self.pairs_per_shard,
            "seed": self.seed,
        }

    @cached_property
    def _board(self) -> StageBoard:
        return StageBoard({"draw": Resource.CPU, "encode": Resource.CPU})

    def write_shard(self, writer: ShardWriter, number: int, watch: Watch) -> None:
        """Makes the pairs of one shard."""
        first = number * self.pairs_per_shard
        keys = [f"{index:07d}" for index in range(first, min(self.pairs, first + self.pairs_per_shard))]
        self._board.listen = watch.report
        for made in overlapped(keys, self._make, watch, self._board):
            reason = made.reason
            if isinstance(made.result, Refused):
                reason = made.result.reason
            elif made.result is not None:
                writer.write(made.key, *made.result)
            if reason is not None:
                writer.skip(made.key, f"{self._kind(int(made.key))}: {reason}")
            self._board.count(None if reason is None else "no pair")
        self._board.report()

    def _kind(self, index: int) -> SampleKind:
        return self.triplets.draw_kind(np.random.default_rng([self.seed, index]))

    def _make(self, _: int, key: str) -> "tuple[dict[str, Any], dict[str, bytes]] | Refused":
        generator = np.random.default_rng([self.seed, int(key)])
        kind = self.triplets.draw_kind(generator)
        try:
            with self._board.at("draw"):
                pair = self.source.pair(kind, int(key), generator)
            with self._board.at("encode"):
                meta, members = pair_members(pair)
        except (DamagedSample, InputError) as error:
            return Refused(str(error))
        return {**meta, "num_parts": self.source.num_parts}, members


@dataclass(frozen=True, slots=True)
class Refused:
    """A pair that cannot be made, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class PreferenceWork:
    """Preference pairs to make; those that the limits refuse are named in the index and left out. Picklable."""

    source: PreferenceSource
    pairs: int
    limits: Strictness = field(default_factory=Strictness)
    pairs_per_shard: int = 32
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """What a continued run must agree in."""
        return {
            "format": FORMAT,
            "source": self.source.describe(),
            "limits": asdict(self.limits),
            "pairs_per_shard": self.pairs_per_shard,
            "seed": self.seed,
        }

    def write_shard(self, writer: ShardWriter, number: int, watch: Watch) -> None:
        """Makes the pairs of one shard."""
        first = number * self.pairs_per_shard
        for index in range(first, min(self.pairs, first + self.pairs_per_shard)):
            key = f"{index:07d}"
            if (refusal := watch.begin(key)) is None:
                try:
                    pair = self.source.preference(index, np.random.default_rng([self.seed, index]))
                    refusal = self.limits.refusal(pair)
                except InputError as error:
                    refusal = str(error)
                if refusal is None:
                    writer.write(key, *preference_members(pair))
            if refusal is not None:
                writer.skip(key, refusal)
            watch.end(key)


def write_pairs(
    work: SynthesisWork | PreferenceWork,
    directory: str | Path,
    *,
    workers: int | Crew = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    listen: Callable[[Message], None] | None = None,
) -> ShardSummary:
    """Writes the shards that are not there yet; arguments and errors as `write_cache`.

    Args:
        listen: hears what the workers say, the figures of their stages among it.
    """
    name = "preferences" if isinstance(work, PreferenceWork) else "pairs"
    run = ShardRun(directory=Path(directory), name=name, shards=-(-work.pairs // work.pairs_per_shard))
    sizes = [min(work.pairs, (n + 1) * work.pairs_per_shard) - n * work.pairs_per_shard for n in range(run.shards)]
    return run_shards(run, work, sizes, crew=as_crew(workers), resume=resume, progress=progress, listen=listen)
