"""Pools of one's own: motions from shards of `scail2 pairs add`, characters from pictures that a manifest describes."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scail2.data.pairs import paint_tracks, read_pair
from scail2.data.shards import DamageReport, Record, find_shards, read_index, records_digest
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import decode, parse_json, read_document
from scail2.files.storage import digest, hash_file
from scail2.masks import BINDING_SLOTS
from scail2.synthesis.generators.protocol import Character, Clip, Motion, Style
from scail2.synthesis.pools.protocol import STYLE_SHARES, PoolMotion
from scail2.video import read_image

_FPS = "16"


@dataclass(frozen=True, kw_only=True)
class StoredMotions:
    """The clips y of pairs or single videos in shards: with masks, and with pose renders and captions where they have them."""

    folders: tuple[Path, ...]

    def draw(self, kind: SampleKind, seed: int) -> str:
        """See `MotionPool`. Kinds with several characters take clips with two or more, the others clips with one."""
        names = self._by_count[kind.is_multi]
        if kind.is_pose:
            names = [name for name in names if "real.pose.mkv" in self._records[name].members]
        if not names:
            what = "several performers" if kind.is_multi else "one performer"
            poses = " and a pose render" if kind.is_pose else ""
            where = ", ".join(map(str, self.folders))
            raise InputError(f"No motion of {where} has {what}{poses}: leave {kind.value} out of the plan's shares.")
        return names[int(np.random.default_rng([seed, 1]).integers(len(names)))]

    def motion(self, name: str) -> PoolMotion:
        """See `MotionPool`."""
        if name not in self._records:
            raise InputError(f"{name} is no motion of {', '.join(map(str, self.folders))}.")
        return _stored_motion(self, name)

    @property
    def num_parts(self) -> int:
        """Part classes of the clips' part maps: those of other people's videos are not known."""
        return 0

    def describe(self) -> dict[str, Any]:
        """The number of clips, where they lie and what they hold."""
        folders = [path.name for path in self.folders]
        content = digest([sorted(self._records), records_digest(self._records.values())])
        return {"pool": "shards", "folders": folders, "count": len(self._records), "digest": content}

    @cached_property
    def _records(self) -> dict[str, Record]:
        report = DamageReport()
        found = {
            f"{shard.stem}/{record.key}": record
            for shard in find_shards(*self.folders)
            for record in read_index(shard, report)
        }
        if not found:
            raise InputError(
                f"There are no motions in {', '.join(map(str, self.folders))}: scail2 pairs add makes some."
            )
        return found

    @cached_property
    def _by_count(self) -> dict[bool, list[str]]:
        counts: dict[bool, list[str]] = {False: [], True: []}
        for name, record in self._records.items():
            where = f"{record.shard}: {record.key}"
            clips = decode(record.meta.get("clips"), dict[str, dict[str, Any]], where, "clips")
            count = decode(clips.get("real", {}).get("characters"), int, where, "clips.real.characters")
            if 1 <= count <= len(BINDING_SLOTS):
                counts[count > 1].append(name)
        return counts


@lru_cache(maxsize=8)
def _stored_motion(pool: StoredMotions, name: str) -> PoolMotion:
    pair = read_pair(pool._records[name])
    real = pair.real
    clip = Clip(frames=real.frames, fps=float(Fraction(str(pair.meta.get("fps", _FPS)))))
    motion = Motion(name=name, clip=clip, masks=paint_tracks(real.tracks), source=str(pair.meta.get("source", name)))
    return PoolMotion(motion=motion, real=real, meta=dict(pair.meta))


@dataclass(frozen=True, kw_only=True)
class PictureEntry:
    """A line of a manifest of characters.

    Attributes:
        picture: file, from the manifest's folder.
        standing: whether it shows the whole character standing before white, as replacement takes it.
        source, licence, consent: for the data card; carried along with every pair.
    """

    name: str
    picture: Path
    style: Style
    caption: str = ""
    standing: bool = False
    source: str = ""
    licence: str = ""
    consent: str = ""


@dataclass(frozen=True, kw_only=True)
class PicturedCharacters:
    """Pictures of characters: a manifest in JSON Lines, each line a `PictureEntry`.

    Styles are drawn in the published proportions, as far as the manifest has them.
    """

    manifest: Path

    def draw(self, count: int, seed: int, without: Collection[str]) -> list[str]:
        """See `CharacterPool`."""
        random = np.random.default_rng([seed, 3])
        left = {style: [name for name in names if name not in without] for style, names in self._by_style.items()}
        drawn: list[str] = []
        while len(drawn) < count and any(left.values()):
            styles = [style for style, names in left.items() if names]
            weights = np.array([STYLE_SHARES[style.value] for style in styles])
            names = left[styles[int(random.choice(len(styles), p=weights / weights.sum()))]]
            drawn.append(names.pop(int(random.integers(len(names)))))
        return drawn

    def character(self, name: str) -> Character:
        """See `CharacterPool`."""
        return _pictured(self, name)

    def is_standing(self, name: str) -> bool:
        """See `CharacterPool`."""
        return self._entry(name).standing

    def meta(self, name: str) -> dict[str, Any]:
        """See `CharacterPool`."""
        entry = self._entry(name)
        told = {"style": entry.style.value, "source": entry.source, "licence": entry.licence, "consent": entry.consent}
        return {key: value for key, value in told.items() if value}

    def describe(self) -> dict[str, Any]:
        """The manifest's name, its characters, and what it says and shows of them."""
        names = sorted(self._entries)
        content = digest([self._content(self._entries[name]) for name in names])
        return {"pool": "pictures", "manifest": self.manifest.name, "names": names, "digest": content}

    def _content(self, entry: PictureEntry) -> list[Any]:
        picture = self.manifest.parent / entry.picture
        said = asdict(entry) | {"picture": str(entry.picture)}
        return [said, hash_file(picture) if picture.exists() else None]  # one that is missing is told when it is drawn

    def _entry(self, name: str) -> PictureEntry:
        if name not in self._entries:
            raise InputError(f"{name} is no character of {self.manifest}.")
        return self._entries[name]

    @cached_property
    def _entries(self) -> dict[str, PictureEntry]:
        entries: dict[str, PictureEntry] = {}
        for number, line in enumerate(read_document(self.manifest).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{self.manifest}, line {number}"
            entry = parse_json(line, PictureEntry, where)
            if entry.name in entries:
                raise InputError(f"{where}: the name {entry.name} is there already.")
            entries[entry.name] = entry
        if not entries:
            raise InputError(
                f"{self.manifest} names no characters: one JSON object a line, with name, picture and style."
            )
        return entries

    @cached_property
    def _by_style(self) -> dict[Style, list[str]]:
        return {style: [e.name for e in self._entries.values() if e.style is style] for style in Style}


@lru_cache(maxsize=64)
def _pictured(pool: PicturedCharacters, name: str) -> Character:
    entry = pool._entry(name)
    image = read_image(pool.manifest.parent / entry.picture)
    return Character(
        name=name, style=entry.style, image=image, caption=entry.caption, source=entry.source or str(entry.picture)
    )
