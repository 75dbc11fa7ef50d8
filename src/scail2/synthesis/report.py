"""What a synthesis came to, read from its journals alone: yield, discards by reason, what it took, one-shot editing beside it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.synthesis.events import ClipChecked, ClipJudged, Edited, Generated, Phase, PictureJudged
from scail2.synthesis.journal import Attempt, PairJournal
from scail2.synthesis.machine import Budget
from scail2.synthesis.roles.protocol import Finding

_REASONS = 8


@dataclass(frozen=True, kw_only=True)
class SynthesisReport:
    """Counts over all pairs that were begun.

    Attributes:
        accepted: pairs, by construction.
        empty: places of pairs that stayed empty after all attempts; `open` are pairs in the making.
        attempts, discards: attempts that ended, and those of them that were discarded, by reason.
        edited: attempts for which pictures were edited; `edited_accepted` of them were accepted, and of `first_good` the first
            edit passed, which is what one-shot editing would have kept.
        edits, clips_generated: in all.
        pictures, clips: what the judge found, and what the measures refused; `refusals` why, most frequent first, # for numbers.
        tokens, cost, seconds: by phase.
    """

    pairs: int
    accepted: dict[str, int]
    empty: int
    open: int
    attempts: int
    discards: dict[str, int]
    edited: int
    edited_accepted: int
    first_good: int
    edits: int
    clips_generated: int
    pictures: dict[str, int]
    clips: dict[str, int]
    refusals: dict[str, int]
    tokens: int
    cost: float
    seconds: dict[str, float]

    @property
    def good(self) -> int:
        """Accepted pairs."""
        return sum(self.accepted.values())

    @property
    def discarded_share(self) -> float:
        """Of attempts."""
        return sum(self.discards.values()) / self.attempts if self.attempts else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the shares that people ask for."""
        return {
            **asdict(self),
            "discarded_share": round(self.discarded_share, 4),
            "yield": {
                "loop": _share(self.edited_accepted, self.edited),
                "one_shot": _share(self.first_good, self.edited),
                "edits_for_a_pair": _share(self.edits, self.edited_accepted),
            },
        }

    def lines(self) -> Iterator[str]:
        """A table for people."""
        yield f"{self.good} of {self.pairs} pairs accepted" + (f", {self.empty} places empty" if self.empty else "")
        for kind, count in self.accepted.items():
            yield f"  {kind:<20}{count:>7}  {count / max(1, self.good):>6.1%}"
        told = ", ".join(f"{reason} {count}" for reason, count in self.discards.items()) or "none"
        yield f"attempts {self.attempts}, discarded {self.discarded_share:.1%}: {told}"
        if self.edited:
            yield (
                f"pictures: {self.edits} edits, first edit good in {self.first_good / self.edited:.1%} of attempts (one-shot "
                f"editing), loop accepts {self.edited_accepted / self.edited:.1%}"
            )
            yield "  found: " + ", ".join(f"{finding} {count}" for finding, count in self.pictures.items())
            yield f"clips: {self.clips_generated} generated, " + ", ".join(f"{k} {n}" for k, n in self.clips.items())
        for reason, count in self.refusals.items():
            yield f"  {count} × {reason}"
        if self.tokens:
            yield f"endpoint: {self.tokens} tokens, cost {self.cost:g}"


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def read_report(folder: Path, budget: Budget) -> SynthesisReport:
    """The report of a folder of shards, from the journals beside them.

    Raises:
        InputError: there are none, or they were written with another budget.
    """
    journals = sorted((folder / "journal").glob("shard-*.jsonl"))
    if not journals:
        raise InputError(f"{folder} holds no journals of a synthesis.")
    return reported(attempts for path in journals for attempts in PairJournal(path, budget).attempts().values())


def reported(pairs: Iterable[list[Attempt]]) -> SynthesisReport:
    """The report of pairs, each with all its attempts."""
    sums = _Sums()
    for attempts in pairs:
        sums.add(attempts)
    return SynthesisReport(
        pairs=sums.counts["pairs"],
        accepted={kind.value: sums.kinds[kind] for kind in SampleKind if sums.kinds[kind]},
        empty=sums.counts["empty"],
        open=sums.counts["open"],
        attempts=sums.counts["attempts"],
        discards=dict(sums.discards.most_common()),
        edited=sums.counts["edited"],
        edited_accepted=sums.counts["edited_accepted"],
        first_good=sums.counts["first_good"],
        edits=sums.counts["edits"],
        clips_generated=sums.counts["clips"],
        pictures=dict(sums.pictures.most_common()),
        clips=dict(sums.clips.most_common()),
        refusals=dict(sums.refusals.most_common(_REASONS)),
        tokens=sums.counts["tokens"],
        cost=round(sums.cost, 6),
        seconds={phase: round(value, 2) for phase, value in sums.seconds.items()},
    )


class _Sums:
    def __init__(self) -> None:
        self.counts, self.kinds = Counter[str](), Counter[SampleKind]()
        self.discards, self.pictures, self.clips = Counter[str](), Counter[str](), Counter[str]()
        self.refusals = Counter[str]()
        self.cost = 0.0
        self.seconds: dict[str, float] = {}

    def add(self, attempts: list[Attempt]) -> None:
        last = attempts[-1]
        self.counts["pairs"] += 1
        accepted = last.state.phase is Phase.ACCEPTED
        if accepted:
            self.kinds[last.kind] += 1
        self.counts["empty"] += last.state.phase is Phase.DISCARDED
        self.counts["open"] += not last.state.phase.is_over
        for attempt in attempts:
            self._attempt(attempt)

    def _attempt(self, attempt: Attempt) -> None:
        over = attempt.state.phase.is_over
        self.counts["attempts"] += over
        if attempt.state.phase is Phase.DISCARDED and attempt.state.cause is not None:
            self.discards[attempt.state.cause.value] += 1
        judged: list[Finding] = []
        for each in attempt.happenings:
            self.counts["tokens"] += each.how.tokens
            self.cost += each.how.cost
            self.seconds[each.phase.value] = self.seconds.get(each.phase.value, 0.0) + each.how.seconds
            match each.event:
                case Edited():
                    self.counts["edits"] += 1
                case Generated():
                    self.counts["clips"] += 1
                case PictureJudged():
                    judged.append(each.event.finding)
                    self.pictures[each.event.finding.value] += 1
                case ClipChecked(passed=False):
                    self.clips["refused by measures"] += 1
                    self.refusals.update(re.sub(r"-?\d[\d.]*", "#", reason) for reason in each.event.reasons)
                case ClipJudged():
                    self.clips[each.event.finding.value] += 1
        if judged and over:
            self.counts["edited"] += 1
            self.counts["edited_accepted"] += attempt.state.phase is Phase.ACCEPTED
            self.counts["first_good"] += judged[0] is Finding.PASS
