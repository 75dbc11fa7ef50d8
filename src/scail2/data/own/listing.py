"""What is in a folder of pairs, from its shards' records: nothing is decoded."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scail2.data.media import count_frames
from scail2.data.own.folder import LEDGER, OWN_PAIRS, Ledger, read_ledger
from scail2.data.own.sources import Consent
from scail2.data.shards import DamagedSample, DamageReport, Record, find_shards, read_index
from scail2.errors import InputError
from scail2.files.documents import load_json

# What `scail2 pairs add` makes; its sources' names are those of files.
_OWN = ("pair", "single", "mask")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A pair in a shard, as its record describes it.

    Attributes:
        record: where it lies.
        kind: its construction.
        source, licence, consent, style, motion, characters: who and what it is of, as far as somebody said.
        frames, seconds: of its clips.
        measures: what was measured when it was made.
    """

    record: Record
    kind: str
    source: str
    licence: str = ""
    consent: Consent = Consent.UNKNOWN
    styles: tuple[str, ...] = ()
    motion: str = ""
    characters: tuple[str, ...] = ()
    frames: int = 0
    seconds: float = 0.0
    measures: Mapping[str, Any] = field(default_factory=dict)
    captioned: bool = False

    @property
    def key(self) -> str:
        """Its key in the shard."""
        return self.record.key

    @property
    def made(self) -> str:
        """How it was made: "pair", "single", "mask", or a generator's word."""
        return str(self.record.meta.get("meta", {}).get("made", ""))

    @property
    def has_text(self) -> bool:
        """Whether a part of its target is left out of the loss."""
        return "real.excluded.mkv" in self.record.members

    @property
    def ties(self) -> set[tuple[str, str]]:
        """What ties it to other pairs: they may not lie in another split. Names count as written, but for case."""
        ties = {("character", name.casefold()) for name in self.characters}
        ties |= {("motion", self.motion.casefold())} if self.motion else set()
        # A generator's word for its pairs names no performance of its own.
        ties |= {("source", self.source)} if self.made in _OWN else set()
        hashes = self.record.meta.get("meta", {}).get("hashes", {})
        return ties | {("file", str(each)) for each in (hashes.values() if isinstance(hashes, Mapping) else ())}


def listed(record: Record) -> Listed:
    """A record of a pair in words and numbers; what it does not say is empty."""
    meta = record.meta.get("meta", {})
    meta = meta if isinstance(meta, Mapping) else {}
    characters, styles = [meta.get("character"), meta.get("driving_character")], [meta.get("style")]
    made_of = meta.get("characters", {})
    if isinstance(made_of, Mapping):  # of `scail2 synthesize --plan`
        characters += list(made_of)
        styles += [each.get("style") for each in made_of.values() if isinstance(each, Mapping)]
    place = meta.get("place")
    # Other makers of pairs do not say how long they are.
    frames = place[1] - place[0] if isinstance(place, list) and len(place) == 2 else _counted(record)
    rate = _rate(meta.get("fps", 16))
    try:
        consent = Consent(meta.get("consent", Consent.UNKNOWN))
    except ValueError:
        consent = Consent.UNKNOWN
    clips = record.meta.get("clips", {})
    caption = clips.get("real", {}).get("caption", "") if isinstance(clips, Mapping) else ""
    return Listed(
        record=record, kind=str(record.meta.get("construction", "")), source=str(meta.get("source") or record.key),
        licence=str(meta.get("licence", "")), consent=consent, styles=_words(styles), motion=str(meta.get("motion", "")),
        characters=_words(characters), frames=frames, seconds=frames / rate,
        measures=meta.get("measures", {}), captioned=bool(caption),
    )  # fmt: skip


def _counted(record: Record) -> int:
    try:
        return count_frames(record.read("real.mkv"))
    except (DamagedSample, ValueError):
        return 0


def _words(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in values if isinstance(each, str) and each))


def _rate(value: Any) -> float:
    try:
        whole, _, part = str(value).partition("/")
        return float(whole) / float(part or 1) or 16.0
    except (ValueError, ZeroDivisionError):
        return 16.0


def _ledger(folder: Path) -> Ledger | None:
    """That of `scail2 pairs add`; none where there is no such file, or one of something else."""
    if not (folder / LEDGER).is_file():
        return None
    if OWN_PAIRS.recognises(folder):
        return read_ledger(folder)
    load_json(folder / LEDGER, Any)  # a damaged one is said to be damaged, not to be something else
    return None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All pairs of a folder, and its ledger where it has one of `scail2 pairs add`."""

    folder: Path
    pairs: tuple[Listed, ...]
    ledger: Ledger | None
    damage: DamageReport

    @classmethod
    def of(cls, folder: Path) -> "Listing":
        """Reads the indexes of a folder's shards.

        Raises:
            InputError: there are none, or they hold something else.
        """
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}.")
        ledger = _ledger(folder)
        report = DamageReport()
        found = []
        shards = find_shards(folder) if ledger is None or any(folder.glob("*.tar")) else []
        for shard in shards:
            for record in read_index(shard, report):
                if "construction" not in record.meta:
                    raise InputError(f"{shard} holds no motion pairs ({record.key} names no construction).")
                found.append(listed(record))
        return cls(folder=folder, pairs=tuple(found), ledger=ledger, damage=report)

    @property
    def kinds(self) -> dict[str, int]:
        """Pairs by construction."""
        return dict(sorted(Counter(each.kind for each in self.pairs).items()))

    @property
    def discards(self) -> dict[str, int]:
        """Stretches that were thrown away, by reason."""
        return dict(Counter(each["reason"] for each in self.discarded()).most_common())

    def discarded(self) -> Iterator[dict[str, Any]]:
        """Everything that was thrown away, with its source."""
        for name, entry in (self.ledger.sources if self.ledger is not None else {}).items():
            for each in entry.discarded:
                yield {"source": name, **each}

    def statistics(self) -> dict[str, Any]:
        """What is told of the folder: counts, seconds, spread of the measures, discards by reason."""
        seconds = {name: round(sum(p.seconds for p in self.pairs if p.source == name), 3) for name in self.sources}
        return {
            "pairs": len(self.pairs), "kinds": self.kinds, "seconds": round(sum(each.seconds for each in self.pairs), 3),
            "sources": seconds, "lengths": {str(n): c for n, c in sorted(Counter(p.frames for p in self.pairs).items())},
            "measures": self._spread(), "captioned": sum(each.captioned for each in self.pairs),
            "with_text": sum(each.has_text for each in self.pairs), "discards": self.discards,
            "damaged": self.damage.lines(),
        }  # fmt: skip

    @property
    def sources(self) -> list[str]:
        """Names of all sources, those that gave nothing among them."""
        there = dict.fromkeys(self.ledger.sources if self.ledger is not None else ())
        return list(there | dict.fromkeys(each.source for each in self.pairs))

    def _spread(self) -> dict[str, list[float]]:
        """Least, middle and largest of each measure."""
        found: dict[str, list[float]] = {}
        for pair in self.pairs:
            for side, values in pair.measures.items():
                for name, value in values.items() if isinstance(values, Mapping) else ():
                    found.setdefault(f"{side} {name}", []).append(float(value))
        return {name: [min(v), sorted(v)[len(v) // 2], max(v)] for name, v in sorted(found.items())}
