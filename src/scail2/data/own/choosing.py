"""Which pairs of a folder are taken: by licence and consent, without near-duplicates, divided so that nothing is on two sides."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from scail2.data.own.folder import OWN_PAIRS, Entry, Ledger, write_ledger
from scail2.data.own.likeness import Twin
from scail2.data.own.listing import Listed, Listing
from scail2.data.shards import DamagedSample, ShardWriter
from scail2.errors import InputError
from scail2.files.disk_errors import WRITING, naming
from scail2.files.ownership import claimed_folder

SPLITS = ("train", "validation", "test")
_CHECKSUMS = "crc32"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a pair.

    Attributes:
        licences: names that are allowed, whatever their case; empty allows all, those without a name among them.
        require_consent: consent was given or is not needed.
    """

    licences: tuple[str, ...] = ()
    require_consent: bool = False

    def refusal(self, pair: Listed) -> str | None:
        """Why a pair is not taken."""
        allowed = {each.casefold() for each in self.licences}
        if allowed and pair.licence.casefold() not in allowed:
            return f"licence {pair.licence or 'not named'}"
        if self.require_consent and not pair.consent.allows:
            return f"consent {pair.consent}"
        return None


def parse_shares(text: str) -> dict[str, float]:
    """``0.8,0.1,0.1`` → shares of train, validation and test, summing to 1."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not 1 <= len(values) <= len(SPLITS) or not all(0 <= each < 1e6 for each in values) or not sum(values) > 0:
        raise InputError(
            f"--split is one to three shares with commas (train, validation, test), such as 0.8,0.1,0.1, not {text!r}."
        )
    return {name: value / sum(values) for name, value in zip(SPLITS, values, strict=False)}


def groups(pairs: Sequence[Listed], twins: Sequence[Twin] = ()) -> list[list[Listed]]:
    """Pairs that share a character, a motion, a source or a file, or are nearly the same, directly or through others."""
    parent = list(range(len(pairs)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    first: dict[tuple[str, str], int] = {}
    place = {pair.key: number for number, pair in enumerate(pairs)}
    for number, pair in enumerate(pairs):
        for tie in sorted(pair.ties):
            parent[root(number)] = root(first.setdefault(tie, number))
    for twin in twins:
        if twin.key in place and twin.of in place:
            parent[root(place[twin.key])] = root(place[twin.of])
    found: dict[int, list[Listed]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        found[root(number)].append(pair)
    return list(found.values())


def split(
    pairs: Sequence[Listed], shares: Mapping[str, float], *, twins: Sequence[Twin] = (), salt: str = ""
) -> dict[str, str]:
    """Key → split. Groups are dealt out whole, the largest first, each to the split that lacks most; the salt breaks ties."""

    def order(group: list[Listed]) -> tuple[int, str]:
        name = min(pair.key for pair in group)
        return -len(group), hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()

    given = dict.fromkeys(shares, 0)
    chosen: dict[str, str] = {}
    for group in sorted(groups(pairs, twins), key=order):
        name = max(shares, key=lambda each: shares[each] * len(pairs) - given[each])
        given[name] += len(group)
        chosen |= {pair.key: name for pair in group}
    return chosen


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is taken: key → split, why the others are not, and which splits were asked for."""

    splits: dict[str, str]
    left_out: dict[str, str]
    asked: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of every split that was asked for, also of those that got none."""
        return {name: sum(each == name for each in self.splits.values()) for name in self.asked}


def choose(
    listing: Listing,
    wanted: Wanted,
    shares: Mapping[str, float],
    twins: Sequence[Twin],
    *,
    salt: str = "",
    keep_twins: bool = False,
) -> Chosen:
    """Filters, takes out the ``twins`` unless they are kept, and divides; whoever is nearly another is on its side.

    Raises:
        InputError: nothing is left.
    """
    left_out = {pair.key: why for pair in listing.pairs if (why := wanted.refusal(pair)) is not None}
    if not keep_twins:
        left_out |= {twin.key: f"nearly {twin.of}" for twin in twins if twin.key not in left_out}
    kept = [pair for pair in listing.pairs if pair.key not in left_out]
    if not kept:
        reasons = ", ".join(dict.fromkeys(left_out.values()))
        raise InputError(
            f"none of the {len(listing.pairs)} pairs in {listing.folder} is left ({reasons or 'there are none'})."
        )
    asked = tuple(name for name, share in shares.items() if share)
    return Chosen(splits=split(kept, shares, twins=twins, salt=salt), left_out=left_out, asked=asked)


def write_selection(listing: Listing, chosen: Chosen, out: Path) -> dict[str, int]:
    """Writes the chosen pairs as folders of their own, `OUT/train` …, or OUT itself where one split only was asked for.

    Members are copied as they are, checked against their checksums. Returns pairs by split.
    """
    counts = chosen.counts
    for name in [each for each, count in counts.items() if count]:
        folder = out / name if len(counts) > 1 else out
        _write_split(listing, [p for p in listing.pairs if chosen.splits.get(p.key) == name], folder)
    return counts


def _write_split(listing: Listing, pairs: Sequence[Listed], folder: Path) -> None:
    by_shard: dict[Path, list[Listed]] = defaultdict(list)
    for pair in pairs:
        by_shard[pair.record.shard].append(pair)
    with claimed_folder(folder, OWN_PAIRS) as place:
        if any(place.glob("*.tar")):
            raise InputError(f"{folder} holds pairs already: choose a new folder for the selection.")
        for shard, inside in by_shard.items():
            with ExitStack() as stack:
                stack.enter_context(naming(place / shard.name, WRITING))
                writer = stack.enter_context(ShardWriter(place / shard.name))
                for pair in inside:
                    _copy(pair, writer)
        write_ledger(place, _ledger(listing, pairs))


def _copy(pair: Listed, writer: ShardWriter) -> None:
    record = pair.record
    try:
        members = {name: record.read(name) for name in record.members}
    except DamagedSample as damage:
        raise InputError(f"{damage}: make it again with scail2 pairs add --replace.") from damage
    writer.write(record.key, {key: value for key, value in record.meta.items() if key != _CHECKSUMS}, members)


def _ledger(listing: Listing, pairs: Sequence[Listed]) -> Ledger:
    """What the new folder says of its sources: the old words, the new counts."""
    old = listing.ledger.sources if listing.ledger is not None else {}
    entries: dict[str, Entry] = {}
    for pair in pairs:
        known = entries.get(pair.source)
        if known is None:
            begun = old.get(pair.source)
            known = replace(begun, clips={}) if begun is not None else Entry(digest="")
        entries[pair.source] = replace(known, clips={**known.clips, pair.kind: known.clips.get(pair.kind, 0) + 1})
    return Ledger(sources=entries)
