"""Cached latents for training: random access into shards, batches that are a pure function of seed and step."""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors.torch import load
from torch import Tensor

from scail2.data.samples import OPTIONAL, REQUIRED, LatentBatch, LatentSample, collate
from scail2.data.shards import DamagedSample, DamageReport, Record, find_shards, read_index
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between, DocumentError, decode
from scail2.masks import SlotName
from scail2.modes import AnimationMode

Shape = tuple[int, int, int]
"""Frames, height and width in pixels."""

Bucket = tuple[AnimationMode, Shape, SampleKind]
"""Samples that may share a batch have one position mode and one shape; among those, kinds are drawn by shares."""


@dataclass(frozen=True, kw_only=True)
class _SampleFacts:
    """What a cached sample's JSON must say, as far as it is read here."""

    kind: SampleKind
    mode: AnimationMode
    position_mode: AnimationMode
    slots: tuple[SlotName, ...]
    shape: tuple[Annotated[int, Between(0, 2**24)], ...] = (0, 0, 0)
    caption: str = ""
    start: float = 0.0
    levels: Annotated[int, Between(1, 255)] = 255
    augmented_share: Annotated[float, Between(0, 1)] = 0.0
    regions: tuple[str, ...] = ()


_NOT_CACHED = "not a cached sample"
# Caches made before the scale was written down.
_LEVELS_OF_FORMAT_1 = 255


class LatentDataset:
    """Random access to cached samples by memory map.

    Damage is found when a sample is first read (checksums) or when its shard is opened, and noted in `damage` by name;
    `__getitem__` raises `DamagedSample`, and `BucketLoader` goes on with another sample.
    """

    def __init__(self, *sources: str | Path) -> None:
        self.damage = DamageReport()
        self.records: list[Record] = []
        for shard in find_shards(*sources):
            self.records += [r for r in read_index(shard, self.damage) if self._is_usable(r)]
        if not self.records:
            raise InputError(self._told_empty(sources))
        self._maps: dict[Path, mmap.mmap] = {}
        self._walk = lru_cache(maxsize=64)(self._epoch_order)
        self._verified = np.zeros(len(self.records), bool)
        self._kinds = np.array([record.meta["kind"] for record in self.records])

    def _told_empty(self, sources: Sequence[str | Path]) -> str:
        """Why there is nothing to train on."""
        places = ", ".join(map(str, sources))
        if self.damage.samples and set(self.damage.samples.values()) == {_NOT_CACHED}:
            return (
                f"{places} holds no cached samples: make some of it with `scail2 cache --source {places} --out FOLDER`."
            )
        reasons = self.damage.lines()
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        return f"{places} holds no usable samples: {'; '.join(reasons[:3])}{more}."

    def _is_usable(self, record: Record) -> bool:
        try:
            decode(record.meta, _SampleFacts, record.key, unknown=True)
        except DocumentError:
            usable = False
        else:
            usable = "safetensors" in record.members
        if not usable:
            self.damage.add_sample(record.shard, record.key, _NOT_CACHED)
        return usable

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def kinds(self) -> dict[SampleKind, int]:
        """Number of samples of each kind."""
        names, counts = np.unique(self._kinds, return_counts=True)
        return {SampleKind(name): int(count) for name, count in zip(names, counts, strict=True)}

    @property
    def empty_captions(self) -> int:
        """Number of samples without a word of caption."""
        return sum(not str(record.meta.get("caption", "")).strip() for record in self.records)

    def indices_of(self, kind: SampleKind | str) -> np.ndarray:
        """Indices of all samples of a kind, ascending."""
        return np.flatnonzero(self._kinds == SampleKind(kind).value)

    @cached_property
    def buckets(self) -> dict[Bucket, np.ndarray]:
        """Indices by (position mode, shape, kind)."""
        found: dict[Bucket, list[int]] = {}
        for index, record in enumerate(self.records):
            meta = record.meta
            shape = tuple(meta.get("shape", (0, 0, 0)))
            key = (AnimationMode(meta["position_mode"]), shape, SampleKind(meta["kind"]))
            found.setdefault(key, []).append(index)
        return {key: np.array(found[key]) for key in sorted(found)}

    def walk(self, bucket: Bucket, seed: int, epoch: int) -> np.ndarray:
        """The bucket's indices in the random order of an epoch (remembered)."""
        return self._walk(bucket, seed, epoch)

    def _epoch_order(self, bucket: Bucket, seed: int, epoch: int) -> np.ndarray:
        mode, shape, kind = bucket
        name = [seed, epoch, list(AnimationMode).index(mode), list(SampleKind).index(kind), *shape]
        return np.random.default_rng(name).permutation(self.buckets[bucket])

    def __getitem__(self, index: int) -> LatentSample:
        record = self.records[index]
        try:
            member = record.members["safetensors"]
            payload = bytes(self._map(record.shard)[member.offset : member.offset + member.size])
            if not self._verified[index]:
                record.verify("safetensors", payload)
                self._verified[index] = True
            return _sample(record, load(payload))
        except DamagedSample as known:
            self.damage.add(known)
            raise
        except Exception as error:
            damage = DamagedSample(record.shard, record.key, f"unreadable ({error})")
            self.damage.add(damage)
            raise damage from error

    def _map(self, shard: Path) -> mmap.mmap:
        if shard not in self._maps:
            with shard.open("rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_maps": {}}  # maps and memories do not pickle; a worker makes its own
        del state["_walk"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._walk = lru_cache(maxsize=64)(self._epoch_order)


def _sample(record: Record, tensors: Mapping[str, Tensor]) -> LatentSample:
    meta = record.meta
    known = {name: tensors[name] for name in REQUIRED}
    known |= {name: tensors[name] for name in OPTIONAL if name in tensors}
    if len(known.get("regions", ())) != len(meta.get("regions", ())):
        raise ValueError(f"{len(known.get('regions', ()))} regions for {len(meta.get('regions', ()))} names")
    return LatentSample(
        **known,
        levels=meta.get("levels", _LEVELS_OF_FORMAT_1),
        augmented_share=meta.get("augmented_share", 0.0),
        region_names=tuple(meta.get("regions", ())),
        key=record.key,
        kind=SampleKind(meta["kind"]),
        mode=AnimationMode(meta["mode"]),
        position_mode=AnimationMode(meta["position_mode"]),
        slots=tuple(meta["slots"]),
        caption=meta.get("caption", ""),
        meta=meta,
    )


# NumPy pads a seed with zeros: without a last word that is not zero, the draw of a step's group would repeat the numbers
# of the draws inside it, and some kinds would never come.
_GROUP_DRAW = 1


class BucketSampler:
    """Which samples make up batch number `step`: a pure function of (seed, step), so a resumed run needs no state.

    Each step draws one position mode and shape, then each place in the batch a kind, both by shares. Within a kind, samples are
    walked in a new random order each epoch, so a batch repeats none while there are enough.

    Args:
        dataset: its `buckets()` are drawn from.
        shares: relative weight per kind; by default each sample of the dataset counts alike. Kinds without samples are
            refused.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_size: int,
        *,
        seed: int = 0,
        shares: Mapping[SampleKind | str, float] | None = None,
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self._dataset, self._buckets = dataset, dataset.buckets
        counts = dataset.kinds
        wanted = {SampleKind(kind): float(share) for kind, share in (shares or counts).items() if share > 0}
        missing = [kind.value for kind in wanted if kind not in counts]
        if missing or not wanted:
            raise InputError(f"the cache has no {', '.join(missing) or 'samples'}: it holds {dict(counts)}")
        weights = {key: wanted.get(key[2], 0.0) * len(ids) / counts[key[2]] for key, ids in self._buckets.items()}
        self._weights = {key: weight for key, weight in weights.items() if weight > 0}
        self._groups: dict[tuple[AnimationMode, Shape], float] = {}
        for (mode, shape, _), weight in self._weights.items():
            self._groups[mode, shape] = self._groups.get((mode, shape), 0.0) + weight

    def batch(self, step: int, attempt: int = 0) -> list[int]:
        """Dataset indices of batch `step`; a higher `attempt` names other samples in place of damaged ones."""
        generator = np.random.default_rng([self.seed, step, attempt])
        groups, totals = list(self._groups), np.array(list(self._groups.values()))
        # The group depends on the step alone, so replacements of damaged samples fit into the batch.
        drawn = np.random.default_rng([self.seed, step, 0, _GROUP_DRAW]).choice(len(groups), p=totals / totals.sum())
        group = groups[int(drawn)]
        keys = [key for key in self._weights if key[:2] == group]
        weights = np.array([self._weights[key] for key in keys])
        picks = generator.choice(len(keys), size=self.batch_size, p=weights / weights.sum())
        return [self._nth(keys[pick], step * self.batch_size + place, attempt) for place, pick in enumerate(picks)]

    def _nth(self, key: Bucket, number: int, attempt: int) -> int:
        size = len(self._buckets[key])
        # The stride between attempts is far from any batch, so a replacement is not in the same batch.
        epoch, place = divmod(number + attempt * (size // 2 + self.batch_size), size)
        return int(self._dataset.walk(key, self.seed, epoch)[place])


class BucketLoader:
    """Batches from any step on. Damaged samples are replaced by others of the batch's mode and named in the report."""

    def __init__(self, dataset: LatentDataset, sampler: BucketSampler) -> None:
        self.dataset, self.sampler = dataset, sampler

    def samples(self, step: int) -> list[LatentSample]:
        """The samples of batch `step`.

        Raises:
            InputError: so much of the data is damaged that a batch cannot be filled.
        """
        chosen: list[LatentSample] = []
        for place, index in enumerate(self.sampler.batch(step)):
            sample = self._read(index)
            for attempt in range(1, 9):
                if sample is not None:
                    break
                sample = self._read(self.sampler.batch(step, attempt)[place])
            if sample is None:
                named = "; ".join(self.dataset.damage.lines()[:5])
                raise InputError(f"too many damaged samples to fill batch {step}: {named}")
            chosen.append(sample)
        return chosen

    def batch(self, step: int) -> LatentBatch:
        """Batch `step`, stacked."""
        return collate(self.samples(step))

    def batches(self, start: int = 0) -> Iterator[LatentBatch]:
        """Endless batches from step `start` on."""
        step = start
        while True:
            yield self.batch(step)
            step += 1

    def _read(self, index: int) -> LatentSample | None:
        try:
            return self.dataset[index]
        except DamagedSample:
            return None
