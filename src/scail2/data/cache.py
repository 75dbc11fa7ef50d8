"""Training triplets → cached latents in shards, made by `conditions.build` exactly as at inference.

A cache is a folder: `cache.json` says how it was made, `shard-00000.tar` … hold the samples. Sample number and seed fix
every pixel, and a shard is whole or absent: an interrupted run continues with the missing shards.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.torch import save

from scail2 import conditions
from scail2.data.dataset import LatentDataset
from scail2.data.embedding import Embedder
from scail2.data.sharding import ShardRun, ShardSummary, ShardWork, run_shards
from scail2.data.shards import DamagedSample, ShardWriter
from scail2.data.sources import PairSource
from scail2.data.triplet_encoding import encode_triplet, sample_record
from scail2.data.triplet_settings import SampleKind, TripletSettings
from scail2.data.triplets import TrainingTriplet, draw_triplet
from scail2.errors import InputError
from scail2.execution.crew import Crew, as_crew
from scail2.execution.tasks import Watch
from scail2.files.staging import atomic_file
from scail2.files.storage import refuse_special
from scail2.loading.components import load_autoencoder

logger = logging.getLogger(__name__)

FORMAT = 2
# Beside the shards of a cache with prompts: the embedding that stands for a dropped caption.
EMPTY_PROMPT = "empty_prompt.safetensors"


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What fixes a cache's content beside what is cached. Picklable.

    Attributes:
        autoencoder: folder of the autoencoder (diffusers layout).
        driving_downsample: 2 where the model takes driving frames at half size, 1 at full size.
        samples: total number of samples.
        embedder: adds prompt and picture embeddings, for models with text and image encoders.
    """

    triplets: TripletSettings
    autoencoder: Path
    samples: int
    driving_downsample: int = 2
    samples_per_shard: int = 64
    seed: int = 0
    embedder: Embedder | None = None

    def described(self, source: dict[str, Any]) -> dict[str, Any]:
        """What a continued run must agree in (the number of samples may grow), its source described so."""
        return {
            "format": FORMAT,
            "source": source,
            "recipe": self.triplets.to_json(),
            "autoencoder": weights_fingerprint(self.autoencoder),
            "driving_downsample": self.driving_downsample,
            "samples_per_shard": self.samples_per_shard,
            "seed": self.seed,
            "embedder": None if self.embedder is None else self.embedder.describe(),
        }


@dataclass(frozen=True, kw_only=True)
class CacheWork(CacheSettings):
    """Motion pairs as samples: all that a cache's workers need; ``samples_per_shard`` is rounded to whole pairs."""

    source: PairSource

    @property
    def pairs_per_shard(self) -> int:
        """Pairs in a full shard."""
        return max(1, self.samples_per_shard // self.triplets.samples_per_pair)

    @property
    def num_shards(self) -> int:
        """Shards of the complete cache."""
        return -(-self.num_pairs // self.pairs_per_shard)

    @property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        return [len(self.pairs_of(number)) * self.triplets.samples_per_pair for number in range(self.num_shards)]

    @property
    def num_pairs(self) -> int:
        """Pairs that `samples` samples are made of."""
        return -(-self.samples // self.triplets.samples_per_pair)

    def pairs_of(self, shard: int) -> range:
        """Pair numbers of one shard."""
        return range(shard * self.pairs_per_shard, min(self.num_pairs, (shard + 1) * self.pairs_per_shard))

    def describe(self) -> dict[str, Any]:
        """See `described`."""
        return self.described(self.source.describe())

    @cached_property
    def _ordinals(self) -> list[int]:
        """For every pair, how many of its kind come before it."""
        seen: Counter[SampleKind] = Counter()
        ordinals = []
        for number in range(self.num_pairs):
            kind = self._kind(number, np.random.default_rng([self.seed, number]))
            ordinals.append(seen[kind])
            seen[kind] += 1
        return ordinals

    def _kind(self, number: int, generator: np.random.Generator) -> SampleKind:
        """What a pair becomes."""
        drawn = self.triplets.draw_kind(generator)  # of the generator, whoever decides: what is drawn later is the same
        return drawn if self.source.kinds is None else self.source.kinds[number]

    def write_shard(self, writer: ShardWriter, number: int, watch: Watch) -> None:
        """Makes the samples of one shard."""
        for pair_number in self.pairs_of(number):
            key = f"{pair_number:07d}"
            self._write_pair(writer, pair_number, watch.begin(key))
            watch.end(key, self.triplets.samples_per_pair)

    def drawn(
        self, number: int, left_out: str | None = None
    ) -> Iterator[tuple[str, SampleKind, TrainingTriplet | str]]:
        """Key, kind and triplet of every sample of a pair, or why it cannot be made; nothing is encoded.

        ``left_out`` says why a pair is not even tried.
        """
        generator = np.random.default_rng([self.seed, number])
        kind = self._kind(number, generator)
        index = self._ordinals[number] if self.source.counts_by_kind else number
        keys = [f"{number:07d}{side}" for side in "ab"[: self.triplets.samples_per_pair]]
        try:
            if left_out is not None:
                raise InputError(left_out)
            pair = self.source.pair(kind, index, generator)
        except (DamagedSample, InputError) as error:
            yield from ((key, kind, str(error)) for key in keys)
            return
        for side, key in enumerate(keys):
            try:
                yield key, kind, draw_triplet(pair, kind, self.triplets, generator, swapped=side == 1)
            except InputError as error:
                yield key, kind, str(error)

    def _write_pair(self, writer: ShardWriter, number: int, left_out: str | None) -> None:
        vae = load_autoencoder(self.autoencoder)
        geometry = conditions.ConditionGeometry(driving_downsample=self.driving_downsample)
        for key, kind, triplet in self.drawn(number, left_out):
            try:
                if isinstance(triplet, str):
                    raise InputError(triplet)
                tensors = encode_triplet(vae, geometry, triplet, self.source.num_parts)
            except InputError as error:
                writer.skip(key, f"{kind}: {error}")
                continue
            if self.embedder is not None:
                tensors |= self.embedder(triplet)
            writer.write(key, sample_record(triplet), {"safetensors": save(tensors)})


class LatentWork(ShardWork, Protocol):
    """What fills a cache."""

    @property
    def sizes(self) -> list[int]:
        """Samples of each shard of the complete cache."""

    @property
    def embedder(self) -> Embedder | None:
        """Adds embeddings; holds models, so such work is done in one process."""


def write_cache(
    work: LatentWork,
    directory: str | Path,
    *,
    workers: int | Crew = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ShardSummary:
    """Writes all shards that are not there yet.

    Args:
        workers: processes, or a crew; 1 works in this one (needed for work with an `embedder`, which holds models).
        resume: continue a cache begun with the same work; its number of samples may have grown.
        progress: called with (samples done, samples in total).

    Raises:
        InputError: the folder holds something else, or other work's shards.
    """
    crew = as_crew(workers)
    if work.embedder is not None and (crew.workers > 1 or crew.ray is not None):
        raise InputError("an embedder holds models and works in one process: use one worker")
    run = ShardRun(directory=Path(directory), name="cache", shards=len(work.sizes))
    summary = run_shards(run, work, work.sizes, crew=crew, resume=resume, progress=progress)
    empty = work.embedder.empty_prompt() if work.embedder is not None and not summary.missing else None
    if empty is not None:
        with atomic_file(run.directory / EMPTY_PROMPT) as file:
            file.write(save({"prompt_embeds": empty}))
        cached = LatentDataset(run.directory)
        if cached.empty_captions:
            logger.warning(
                "%d of %d samples have an empty caption: trained on them, a model learns to do without its prompt",
                cached.empty_captions,
                len(cached),
            )
    return summary


def weights_fingerprint(folder: Path) -> str:
    """Identity of an autoencoder: its config and weight file's bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        refuse_special(path)
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
