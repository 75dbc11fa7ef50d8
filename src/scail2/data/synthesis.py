"""`scail2 synthesize` and `scail2 preferences`: pairs written as files that people can look at and any trainer can read."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scail2.data.pairs import pair_members
from scail2.data.preferences import PreferenceSource, Strictness, preference_members
from scail2.data.sharding import ShardRun, ShardSummary, run_shards
from scail2.data.shards import DamagedSample, ShardWriter
from scail2.data.sources import PairSource
from scail2.data.triplet_settings import TripletSettings
from scail2.errors import InputError
from scail2.execution.crew import Crew, as_crew
from scail2.execution.tasks import Watch

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

    def write_shard(self, writer: ShardWriter, number: int, watch: Watch) -> None:
        """Makes the pairs of one shard."""
        first = number * self.pairs_per_shard
        for index in range(first, min(self.pairs, first + self.pairs_per_shard)):
            generator = np.random.default_rng([self.seed, index])
            kind = self.triplets.draw_kind(generator)
            key = f"{index:07d}"
            if (reason := watch.begin(key)) is None:
                try:
                    meta, members = pair_members(self.source.pair(kind, index, generator))
                    writer.write(key, {**meta, "num_parts": self.source.num_parts}, members)
                except (DamagedSample, InputError) as error:
                    reason = str(error)
            if reason is not None:
                writer.skip(key, f"{kind}: {reason}")
            watch.end(key)


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
) -> ShardSummary:
    """Writes the shards that are not there yet; arguments and errors as `write_cache`."""
    name = "preferences" if isinstance(work, PreferenceWork) else "pairs"
    run = ShardRun(directory=Path(directory), name=name, shards=-(-work.pairs // work.pairs_per_shard))
    sizes = [min(work.pairs, (n + 1) * work.pairs_per_shard) - n * work.pairs_per_shard for n in range(run.shards)]
    return run_shards(run, work, sizes, crew=as_crew(workers), resume=resume, progress=progress)
