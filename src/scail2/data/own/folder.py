"""A folder of pairs made of one's own videos: one shard for each source, and `pairs.json`, which says what became of each."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scail2.data.endpoint.failures import EndpointError
from scail2.data.own.making import Captioner, Laid, MadeClip, Making, clips_of, lay
from scail2.data.own.sources import OwnSource, to_json
from scail2.data.own.verdicts import Discard, Reason, Refused
from scail2.data.pairs import pair_members
from scail2.data.shards import ShardWriter
from scail2.errors import InputError
from scail2.files.disk_errors import WRITING, naming
from scail2.files.documents import load_json
from scail2.files.ownership import Kind, claimed_folder, is_document
from scail2.files.staging import atomic_file
from scail2.files.storage import digest

LEDGER = "pairs.json"
FORMAT, MADE_OF = 1, "own videos"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of a source.

    Attributes:
        digest: of its files, of what was said about it and of how it was made.
        clips: pairs of it by construction.
        discarded: stretches that were thrown away, as `Discard.to_json`.
        facts: what was measured, see `Laid.facts`; licence, consent and the like under `said`.
    """

    digest: str
    clips: dict[str, int] = field(default_factory=dict)
    discarded: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Pairs made of it."""
        return sum(self.clips.values())


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """`pairs.json`: every source by name."""

    sources: dict[str, Entry] = field(default_factory=dict)
    format: int = FORMAT
    source: str = MADE_OF
    seed: int = 0


OWN_PAIRS = Kind(
    "pairs of one's own videos", LEDGER, lambda folder: is_document(folder / LEDGER, {"format", "source", "sources"})
)


def read_ledger(folder: Path) -> Ledger:
    """What a folder's `pairs.json` says; `InputError` where there is none of `scail2 pairs add`."""
    path = folder / LEDGER
    if not path.is_file():
        raise InputError(f"{folder} holds no pairs of one's own videos (no {LEDGER}): make some with scail2 pairs add.")
    if not OWN_PAIRS.recognises(folder):
        load_json(path, Any)  # a damaged one is said to be damaged, not to be somebody else's
        raise InputError(f"{folder} was not made by scail2 pairs add: this looks at pairs of one's own videos.")
    ledger = load_json(path, Ledger)
    if ledger.source != MADE_OF or ledger.format != FORMAT:
        raise InputError(f"{path} was not written by this version's scail2 pairs add.")
    return ledger


def shard_of(folder: Path, name: str) -> Path:
    """The shard of a source."""
    return folder / f"{name}.tar"


def write_ledger(folder: Path, ledger: Ledger) -> None:
    """Replaces `pairs.json`."""
    with atomic_file(folder / LEDGER) as file:
        file.write(json.dumps(asdict(ledger), indent=1).encode())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A source and what became of it; `kept` where it had been there already."""

    name: str
    entry: Entry
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Adding:
    """How sources are added to a folder.

    Attributes:
        captioner: writes captions for targets that have none; `captioned_by` says who it is.
        replace: make sources anew that are there, in whichever way they were made: shards may be damaged, captions missing.
        laid: called with what was measured of each source before its clips are cut.
        progress: called with (frames done, frames in total) while characters are looked for.
    """

    making: Making
    captioner: Captioner | None = None
    captioned_by: str = ""
    replace: bool = False
    laid: Callable[[Laid], None] | None = None
    progress: Callable[[int, int], None] | None = None

    def digest_of(self, source: OwnSource) -> str:
        """Identity of what is made of a source."""
        return digest([source.identity(), self.making.describe(), self.captioned_by])


def add_sources(sources: Sequence[OwnSource], directory: str | Path, adding: Adding) -> Iterator[Outcome]:
    """Makes shards of sources, one after the other, each whole or absent; those that are there already are kept, or replaced.

    Of a single source that gives nothing the reason is raised; of several it is part of the outcome.

    Raises:
        InputError: the folder holds something else, or a source of that name made in another way; nothing came of any.
        EndpointError: captions cannot be had; the sources before are whole.
    """
    with _claimed(Path(directory)) as (folder, ledger):
        digests = {source.name: adding.digest_of(source) for source in sources}
        for name, entry in ledger.sources.items():
            if name in digests and digests[name] != entry.digest and not adding.replace:
                raise InputError(
                    f"{directory} holds {name} already, made of other files or in another way: give this one another --name, "
                    "or make it anew with --replace."
                )
        made = 0
        for source in sources:
            old = ledger.sources.get(source.name)
            there = old is not None and (not old.count or shard_of(folder, source.name).exists())
            if old is not None and there and not adding.replace:
                made += old.count
                yield Outcome(name=source.name, entry=old, kept=True)
                continue
            entry = _add(source, folder, adding, digests[source.name], alone=len(sources) == 1)
            ledger.sources[source.name] = entry
            write_ledger(folder, ledger)
            made += entry.count
            yield Outcome(name=source.name, entry=entry)
        if not made:
            raise InputError(
                f"none of the {len(sources)} sources gave a clip; the reasons are named above and in {LEDGER}."
            )


@contextmanager
def _claimed(directory: Path) -> Iterator[tuple[Path, Ledger]]:
    with claimed_folder(directory, OWN_PAIRS) as folder:
        ledger = read_ledger(folder) if (folder / LEDGER).exists() else Ledger()
        yield folder, ledger


def _add(source: OwnSource, folder: Path, adding: Adding, identity: str, *, alone: bool) -> Entry:
    clips: Counter[str] = Counter()
    discarded: list[Discard] = []
    facts: dict[str, Any] = {}
    notes: list[str] = []
    shard = shard_of(folder, source.name)
    try:
        with ExitStack() as stack:
            laid = lay(source, adding.making, stack, adding.progress)
            facts = laid.facts()
            notes = [each for side in (laid.driving, laid.target) if side is not None for each in side.notes]
            if adding.laid is not None:
                adding.laid(laid)
            writer: ShardWriter | None = None
            for made in clips_of(laid, adding.making, adding.captioner):
                if isinstance(made, MadeClip):
                    if writer is None:
                        writer = stack.enter_context(_writer(shard))
                    writer.write(made.key, *pair_members(made.pair))
                    clips[made.pair.construction.value] += 1
                else:
                    discarded.append(made)
    except EndpointError:
        raise  # it says nothing about this source: the same command goes on here once the endpoint answers
    except InputError as error:
        if alone:
            raise
        reason = error.reason if isinstance(error, Refused) else Reason.UNREADABLE
        clips.clear()
        discarded = [Discard(reason=reason, detail=str(error))]
    if not clips:
        if alone:
            raise InputError(f"{source.name} gives no clip: {_told(discarded)}.")
        for path in (shard, shard.with_suffix(".index.json")):  # of an earlier making
            path.unlink(missing_ok=True)
    return Entry(
        digest=identity, clips=dict(clips), discarded=[each.to_json() for each in discarded], facts=facts,
        said=to_json(source), notes=notes,
    )  # fmt: skip


@contextmanager
def _writer(shard: Path) -> Iterator[ShardWriter]:
    with naming(shard, WRITING), ShardWriter(shard) as writer:
        yield writer


def _told(discarded: Sequence[Discard]) -> str:
    told = [f"{each.reason} from {each.start:g} to {each.stop:g} s: {each.detail}" for each in discarded[:3]]
    more = len(discarded) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "") if told else "it is shorter than a clip"
