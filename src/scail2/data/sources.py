"""Motion pairs from shards made elsewhere, by `scail2 synthesize` or another generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np

from scail2.data.pairs import MotionPair, read_pair
from scail2.data.shards import DamageReport, Record, find_shards, read_index, records_digest
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between, decode

# Construction of the pair a kind is made from; multi-character poses need only one clip with several characters.
CONSTRUCTIONS: dict[SampleKind, tuple[SampleKind, ...]] = {
    SampleKind.ANIMATION_SINGLE: (SampleKind.ANIMATION_SINGLE,),
    SampleKind.ANIMATION_MULTI: (SampleKind.ANIMATION_MULTI,),
    SampleKind.REPLACEMENT_SINGLE: (SampleKind.REPLACEMENT_SINGLE,),
    SampleKind.REPLACEMENT_MULTI: (SampleKind.REPLACEMENT_MULTI,),
    SampleKind.POSE_SINGLE: (SampleKind.ANIMATION_SINGLE, SampleKind.REPLACEMENT_SINGLE, SampleKind.POSE_SINGLE),
    SampleKind.POSE_MULTI: (SampleKind.ANIMATION_MULTI, SampleKind.REPLACEMENT_MULTI, SampleKind.POSE_MULTI),
    SampleKind.SELF_DRIVEN: (SampleKind.ANIMATION_SINGLE, SampleKind.SELF_DRIVEN),
}
_POSE_MEMBER = "real.pose.mkv"


@dataclass(frozen=True)
class PairShards:
    """Pairs written by `scail2 synthesize`, or by any other generator in the same layout (`docs/data.md`)."""

    paths: tuple[Path, ...]

    @property
    def num_parts(self) -> int:
        """Part classes stored with the pairs (0 when there are none)."""
        first = self.records[0]
        parts = first.meta.get("num_parts", 0)
        return decode(parts, Annotated[int, Between(0, 15)], f"{first.shard}: {first.key}", "num_parts")

    @property
    def counts_by_kind(self) -> bool:
        """There are only so many: each kind walks through its own."""
        return True

    @cached_property
    def records(self) -> list[Record]:
        """What is stored, in its order."""
        records = [record for shard in find_shards(*self.paths) for record in read_index(shard, self.damage)]
        if not records:
            raise InputError(f"no motion pairs in {', '.join(map(str, self.paths))}")
        return records

    @cached_property
    def damage(self) -> DamageReport:
        """Shards and samples that could not be indexed."""
        return DamageReport()

    @cached_property
    def constructions(self) -> tuple[SampleKind, ...]:
        """How each record was constructed."""
        for record in self.records:
            if "construction" not in record.meta:
                raise InputError(
                    f"{record.shard} holds no motion pairs ({record.key} names no construction): give shards of "
                    "scail2 synthesize, or pairs in their layout"
                )
        return tuple(
            decode(record.meta["construction"], SampleKind, f"{record.shard}: {record.key}", "construction")
            for record in self.records
        )

    @property
    def kinds(self) -> None:
        """See `PairSource`: they are drawn, so a pair may become several and comes as often as its kinds do."""

    def numbers_for(self, kind: SampleKind) -> list[int]:
        """Numbers of the records that can become a kind; of pose kinds those that have pose renders."""
        found = [n for construction in CONSTRUCTIONS[kind] for n in self._by_construction.get(construction, [])]
        return [n for n in found if _POSE_MEMBER in self.records[n].members] if kind.is_pose else found

    @cached_property
    def _by_construction(self) -> dict[SampleKind, list[int]]:
        found: dict[SampleKind, list[int]] = {}
        for number, construction in enumerate(self.constructions):
            found.setdefault(construction, []).append(number)
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Stored pairs by construction."""
        return {construction.value: len(numbers) for construction, numbers in self._by_construction.items()}

    def shares(self, wanted: Mapping[SampleKind, float]) -> dict[SampleKind, float]:
        """Shares of the kinds that can be made of what is stored.

        Among those that are wanted, as wanted; stored pairs that none of these takes (single videos, for a recipe that has no
        pose or self-driven samples) become what they were made as, by their number.

        Raises:
            InputError: nothing stored can become a sample.
        """
        there = {kind: share for kind, share in wanted.items() if share > 0 and self.numbers_for(kind)}
        asked = {kind for kind, share in wanted.items() if share > 0}
        taken = {name for kind in there for name in CONSTRUCTIONS[kind]}
        left = {SampleKind(name): count for name, count in self.counts.items() if SampleKind(name) not in taken}
        left = {kind: count for kind, count in left.items() if self.numbers_for(kind)}
        if not left and there.keys() == asked:
            return dict(wanted)
        total = sum(self.counts.values())
        if not there and not left:
            raise InputError(
                f"of {', '.join(map(str, self.paths))} no sample can be made: the pairs hold {self.counts}."
            )
        rest = sum(left.values()) / total if there else 1.0
        shares = {kind: count / sum(left.values()) * rest for kind, count in left.items()}
        scale = (1 - rest) / sum(there.values()) if there else 0.0
        return {kind: share * scale for kind, share in there.items()} | shares

    def pair(self, kind: SampleKind, index: int, generator: np.random.Generator) -> MotionPair:
        """Stored pair `index` for a kind; none comes twice for it before all of its construction have come.

        Raises:
            InputError: there is none.
            DamagedSample: the pair drawn cannot be read.
        """
        candidates = self.numbers_for(kind)
        if not candidates:
            raise InputError(f"no stored pair can become {kind.value}: leave it out of the recipe's shares")
        own = [number for number in candidates if self.constructions[number] is kind]
        rest = [number for number in candidates if self.constructions[number] is not kind]
        epoch, place = divmod(index, len(candidates))
        # What was made as this kind comes before what can also become it.
        part, place = (own, place) if place < len(own) else (rest, place - len(own))
        order = np.random.default_rng(epoch).permutation(len(part))
        return read_pair(self.records[part[int(order[place])]])

    def __len__(self) -> int:
        return len(self.records)

    def describe(self) -> dict[str, Any]:
        """Names, number and content of the pairs."""
        return {
            "pairs": [path.name for path in self.paths], "count": len(self), "digest": records_digest(self.records)
        }  # fmt: skip


@dataclass(frozen=True)
class EachPairOnce:
    """Stored pairs of which each is taken once, as what it was made as.

    The recipe's part of them that takes poses, or clips that drive themselves, is made of those that have no other use in it
    and then of some that have. Pairs that no kind of the recipe takes are left out.

    Attributes:
        shares: of the kinds, as `PairShards.shares` gives them.
    """

    pairs: PairShards
    shares: dict[SampleKind, float]

    @property
    def num_parts(self) -> int:
        """See `PairShards`."""
        return self.pairs.num_parts

    @property
    def counts_by_kind(self) -> bool:
        """See `PairShards`."""
        return True

    @property
    def damage(self) -> DamageReport:
        """See `PairShards`."""
        return self.pairs.damage

    @cached_property
    def kinds(self) -> tuple[SampleKind, ...]:
        """What each pair that is taken becomes, in the order in which they are stored."""
        return tuple(self._taken.values())

    def pair(self, kind: SampleKind, index: int, generator: np.random.Generator) -> MotionPair:
        """The pair that is the `index`-th to become that kind; DamagedSample where it cannot be read."""
        return read_pair(self.pairs.records[self._by_kind[kind][index]])

    def describe(self) -> dict[str, Any]:
        """As the pairs, and that each is taken once."""
        return self.pairs.describe() | {"taken": "each once"}

    @cached_property
    def _taken(self) -> dict[int, SampleKind]:
        """What becomes of the pairs, by their number."""
        wanted = {kind: share for kind, share in self.shares.items() if share > 0}
        own = self.pairs.constructions
        taken = {number: kind for number, kind in enumerate(own) if kind in wanted}
        for kind, share in wanted.items():
            others = [
                number for number in self.pairs.numbers_for(kind) if taken.get(number, own[number]) is own[number]
            ]
            unused = [number for number in others if number not in taken]
            taken |= dict.fromkeys(unused, kind)
            missing = round(len(own) * share / sum(wanted.values())) - sum(each is kind for each in taken.values())
            used = [number for number in others if number not in unused and own[number] is not kind]
            order = np.random.default_rng(0).permutation(len(used))[: max(0, missing)]
            taken |= dict.fromkeys((used[int(place)] for place in order), kind)
        return dict(sorted(taken.items()))

    @cached_property
    def _by_kind(self) -> dict[SampleKind, list[int]]:
        return {kind: [n for n, each in self._taken.items() if each is kind] for kind in self.shares}


class PairSource(Protocol):
    """Where motion pairs come from; picklable, and a pure function of its arguments."""

    @property
    def num_parts(self) -> int:
        """Part classes of the clips' part maps (0: it has none)."""

    @property
    def kinds(self) -> Sequence[SampleKind] | None:
        """What each pair becomes, by its number; None where kinds are drawn in a recipe's shares."""

    @property
    def counts_by_kind(self) -> bool:
        """Whether `index` counts the pairs of a kind (stored pairs: none is left out) or all pairs (drawn ones)."""

    def pair(self, kind: SampleKind, index: int, generator: np.random.Generator) -> MotionPair:
        """A pair that can become a sample of that kind; raises DamagedSample for one that cannot be read."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that fix the source's output; part of the cache's identity."""
