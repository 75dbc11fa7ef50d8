"""WebDataset shards: tar files of samples that share a key, whole or absent, readable by random access.

Every member's checksum is stored in the sample's JSON, so damage is found where it is and named.
"""

import io
import json
import logging
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scail2.checkpoints.model_folder import refuse_outside
from scail2.errors import InputError, short
from scail2.files.documents import DocumentError, load_json, parse_json
from scail2.files.limits import DOCUMENT_BYTES, MEMBERS
from scail2.files.staging import Staging
from scail2.files.storage import digest, refuse_special

logger = logging.getLogger(__name__)

_JSON = "json"
_CHECKSUMS = "crc32"


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's bytes lie in its shard."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """One sample of a shard: its JSON, and where its other members lie (by suffix)."""

    shard: Path
    key: str
    meta: Mapping[str, Any]
    members: Mapping[str, Member]

    def read(self, suffix: str) -> bytes:
        """The bytes of `KEY.suffix`, checked against the stored checksum.

        Raises:
            DamagedSample: the bytes are missing, cut short or changed.
        """
        if suffix not in self.members:
            raise DamagedSample(self.shard, self.key, f"no member .{suffix}")
        member = self.members[suffix]
        with self.shard.open("rb") as file:
            file.seek(member.offset)
            payload = file.read(member.size)
        self.verify(suffix, payload)
        return payload

    def verify(self, suffix: str, payload: bytes | memoryview) -> None:
        """Raises `DamagedSample` unless `payload` is what was written."""
        if len(payload) != self.members[suffix].size:
            raise DamagedSample(self.shard, self.key, f".{suffix} is cut short")
        sums = self.meta.get(_CHECKSUMS)
        if not isinstance(sums, Mapping) or zlib.crc32(payload) != sums.get(suffix):
            raise DamagedSample(self.shard, self.key, f".{suffix} does not match its checksum")


class DamagedSample(Exception):  # noqa: N818 - a state of the data, caught and counted, not a programming error
    """A sample that cannot be used, with its name."""

    def __init__(self, shard: Path, key: str, reason: str) -> None:
        super().__init__(f"{shard.name}/{key}: {reason}")
        self.shard, self.key, self.reason = shard, key, reason


@dataclass(slots=True)
class DamageReport:
    """Everything that was skipped, by name and reason; each is logged as a warning when it is found."""

    shards: dict[str, str] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)

    def add_shard(self, name: str, reason: str) -> None:
        """Notes a damaged shard or index (once)."""
        self._note(self.shards, "shard", name, reason)

    def add_sample(self, shard: Path, key: str, reason: str) -> None:
        """Notes a damaged sample (once)."""
        self._note(self.samples, "sample", f"{shard.name}/{key}", reason)

    def add(self, damage: DamagedSample) -> None:
        """Notes the sample an exception names."""
        self.add_sample(damage.shard, damage.key, damage.reason)

    @staticmethod
    def _note(known: dict[str, str], what: str, name: str, reason: str) -> None:
        if name not in known:
            known[name] = reason
            logger.warning("damaged %s %s: %s; left out", what, name, reason)

    def __bool__(self) -> bool:
        return bool(self.shards or self.samples)

    def lines(self) -> list[str]:
        """One line per damaged shard or sample."""
        shards = [f"shard {name}: {reason}" for name, reason in self.shards.items()]
        return shards + [f"sample {name}: {reason}" for name, reason in self.samples.items()]


class ShardWriter:
    """Writes one shard beside its name and renames it when complete (context manager).

    Left with an exception, nothing remains. Together with the tar an index `NAME.index.json` is written, which saves
    readers the scan; it holds the tar's size and is ignored when that differs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: list[dict[str, Any]] = []
        self._skipped: dict[str, str] = {}

    def __enter__(self) -> "ShardWriter":
        self._staging = Staging(self.path)
        try:
            self._tar = tarfile.open(self._staging.place, "w", format=tarfile.USTAR_FORMAT)
        except BaseException:
            self._staging.close()
            raise
        return self

    def write(self, key: str, meta: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
        """Adds one sample. `meta` is JSON-able; `members` maps suffixes (`safetensors`, `driving.mkv`) to bytes."""
        meta = {**meta, _CHECKSUMS: {suffix: zlib.crc32(payload) for suffix, payload in members.items()}}
        self._add(f"{key}.{_JSON}", json.dumps(meta, sort_keys=True).encode())
        places = {suffix: self._add(f"{key}.{suffix}", payload) for suffix, payload in members.items()}
        self._index.append({"key": key, "meta": meta, "members": places})

    def skip(self, key: str, reason: str) -> None:
        """Notes, in the index, a sample that could not be made."""
        self._skipped[key] = reason

    def _add(self, name: str, payload: bytes) -> tuple[int, int]:
        info = tarfile.TarInfo(name)
        info.size = len(payload)  # every other field stays at its default, so equal samples give equal bytes
        self._tar.addfile(info, io.BytesIO(payload))
        padded = -len(payload) % tarfile.BLOCKSIZE
        return self._tar.offset - len(payload) - padded, len(payload)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._staging as staging:
            self._tar.close()
            if kind is not None:
                return
            index = {"bytes": staging.place.stat().st_size, "samples": self._index, "skipped": self._skipped}
            part = index_path(staging.place)
            part.write_text(json.dumps(index))
            os.replace(part, index_path(self.path))
            staging.publish()


def records_digest(records: Iterable[Record]) -> str:
    """Identity of what samples hold: their keys and their JSON, in which the checksum of every member stands."""
    return digest([[record.key, record.meta] for record in records])


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_name(f"{shard.stem}.index.json")


def find_shards(*sources: str | Path) -> list[Path]:
    """Shards named directly or lying in folders, sorted.

    Raises:
        InputError: a path that is neither, or a folder without shards.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = sorted(source.glob("*.tar"))
            if not inside:
                raise InputError(
                    f"no shards (*.tar) in {source}: write some with `scail2 cache` or `scail2 synthesize`"
                )
            for shard in inside:
                refuse_special(shard)
                refuse_outside(shard, source, f"{source} holds the shard {shard.name}")
            found += inside
        elif source.exists():
            refuse_special(source)
            if source.suffix != ".tar":
                raise InputError(f"{source} is no shard (*.tar): name shards, or folders that hold some")
            found.append(source)
        else:
            raise InputError(f"there is no shard or folder {source}")
    return found


def read_index(shard: Path, report: DamageReport) -> list[Record]:
    """The records of one shard; damage is noted in `report` and whatever is still whole is returned."""
    refuse_special(shard)
    try:
        index = load_index(shard)
        if index.bytes == shard.stat().st_size:
            return [_record(shard, entry, index.bytes) for entry in index.samples]
        report.add_shard(shard.name, f"has {shard.stat().st_size} bytes, was written with {index.bytes}")
    except FileNotFoundError:
        pass  # shards written elsewhere have no index
    except DocumentError as error:
        report.add_shard(index_path(shard).name, f"unreadable index ({error}), shard scanned instead")
    return list(_scan(shard, report))


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One sample in an index: its key, its JSON, and (offset, size) of its other members."""

    key: str
    meta: dict[str, Any]
    members: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What ``NAME.index.json`` says about its shard."""

    bytes: int
    samples: list[IndexEntry]
    skipped: dict[str, str] = field(default_factory=dict)


def load_index(shard: Path) -> ShardIndex:
    """A shard's index; `DocumentError` when it is damaged, `OSError` when it is absent or cannot be read."""
    return load_json(index_path(shard), ShardIndex)


def _record(shard: Path, entry: IndexEntry, size: int) -> Record:
    _check_name(shard, entry.key)
    for suffix, (offset, length) in entry.members.items():
        if offset < 0 or length < 0 or offset + length > size:
            raise DocumentError(f"{index_path(shard)} places {entry.key}.{suffix} outside its shard")
    members = {suffix: Member(*place) for suffix, place in entry.members.items()}
    return Record(shard, entry.key, entry.meta, members)


def _check_name(shard: Path, name: str) -> None:
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\0" in name:
        raise InputError(f"{shard}: the member {short(name)} leads out of its folder; nothing of this shard is used.")


def _scan(shard: Path, report: DamageReport) -> Iterator[Record]:
    size = shard.stat().st_size
    found: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for number, info in enumerate(tar, start=1):
                MEMBERS.check(number, str(shard))
                # Else every header read stays in memory; `getmembers` would read them all first.
                tar.members = []  # type: ignore[attr-defined]
                _check_name(shard, info.name)
                if not info.isfile() and not info.isdir():
                    raise InputError(
                        f"{shard}: the member {short(info.name)} is a link or device; shards hold files only."
                    )
                key, _, suffix = info.name.removeprefix("./").partition(".")
                if info.isfile() and info.offset_data + info.size <= size:
                    found.setdefault(key, {})[suffix] = Member(info.offset_data, info.size)
    except (tarfile.TarError, EOFError, OverflowError) as error:
        report.add_shard(shard.name, f"damaged tar ({error})")
    with shard.open("rb") as file:
        for key, members in found.items():
            place = members.pop(_JSON, None)
            if place is None or not members:
                report.add_sample(shard, key, "incomplete")
                continue
            DOCUMENT_BYTES.check(place.size, f"{shard}: {key}.{_JSON}")
            file.seek(place.offset)
            try:
                meta = parse_json(file.read(place.size), dict[str, Any], f"{shard}: {key}.{_JSON}")
            except DocumentError:
                report.add_sample(shard, key, "unreadable JSON")
                continue
            yield Record(shard, key, meta, members)
