"""What somebody brings: a pair of videos with one motion, or a single video, and what is to be known about them."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from scail2.data.own.text_regions import TextRegion
from scail2.errors import InputError, short
from scail2.files.documents import parse_json, read_document
from scail2.files.storage import hash_file
from scail2.files.user_paths import expanded


class Consent(StrEnum):
    """Whether the people shown agreed to their picture being trained on."""

    GIVEN = "given"
    NOT_NEEDED = "not-needed"
    UNKNOWN = "unknown"
    REFUSED = "refused"

    @property
    def allows(self) -> bool:
        """Whether material that needs consent may be used."""
        return self in (Consent.GIVEN, Consent.NOT_NEEDED)


class Scene(StrEnum):
    """Whether both videos of a pair show one scene (replacement) or each its own (animation)."""

    AUTO = "auto"
    SHARED = "shared"
    OWN = "own"


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What may be done with a source, kept with everything that is made of it.

    Attributes:
        licence: name of the licence, best as SPDX writes it; empty where nobody said.
        consent: of the people shown.
        note: where it comes from, whom to ask.
    """

    licence: str = ""
    consent: Consent = Consent.UNKNOWN
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnSource:
    """One pair of videos, or a single one (`driving` None).

    Attributes:
        name: of the source, and of everything made of it.
        target: y, the video that the network is to produce.
        driving: ỹ, the same motion by somebody else.
        target_mask, driving_mask: palette masks or mattes of the files; None where characters are to be found.
        caption, driving_caption: what target and driving video show.
        offset: seconds by which the motion is later in the driving video than in the target; None: it is measured.
        characters: how many there are in each video; None: those that are found.
        text: where burned-in text is.
        style, character, driving_character, motion: for the data card and for splits; who is the same has one name.
    """

    name: str
    target: Path
    driving: Path | None = None
    target_mask: Path | None = None
    driving_mask: Path | None = None
    caption: str = ""
    driving_caption: str = ""
    offset: float | None = None
    characters: int | None = None
    scene: Scene = Scene.AUTO
    text: tuple[TextRegion, ...] = ()
    rights: Rights = Rights()
    style: str = ""
    character: str = ""
    driving_character: str = ""
    motion: str = ""

    @property
    def videos(self) -> dict[str, Path]:
        """Path by side, the driving video first where there is one."""
        return ({"driving": self.driving} if self.driving is not None else {}) | {"target": self.target}

    def mask_of(self, side: str) -> Path | None:
        """The mask that was given for a side."""
        return self.driving_mask if side == "driving" else self.target_mask

    @property
    def files(self) -> list[tuple[str, Path]]:
        """(role, path) of everything that is read."""
        named = [("driving video", self.driving), ("target video", self.target)]
        named += [("driving mask", self.driving_mask), ("target mask", self.target_mask)]
        named += [("text mask", region.mask) for region in self.text]
        return [(role, path) for role, path in named if path is not None]

    @cached_property
    def hashes(self) -> dict[Path, str]:
        """SHA-256 of every file by its path: large files are read once."""
        return {path: hash_file(path) for path in {path for _, path in self.files}}

    def identity(self) -> dict[str, Any]:
        """What of a source decides what is made of it: the bytes of its files and all that was said."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("target", "driving", "rights")}
        said |= {"rights": [self.rights.licence, self.rights.consent.value, self.rights.note]}
        said |= {"text": [(each.side, each.box, each.seconds) for each in self.text]}
        hashes = [[role, self.hashes[path]] for role, path in self.files]
        return {name: str(value) for name, value in said.items() if not name.endswith("_mask")} | {"files": hashes}


_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_PATHS = ("target", "driving", "target_mask", "driving_mask")
_RIGHTS = ("licence", "consent", "note")
_PLAIN = ("caption", "driving_caption", "style", "character", "driving_character", "motion")
COLUMNS = ("name", *_PATHS, *_PLAIN, "offset", "characters", "scene", "text", *_RIGHTS)
MOST_SOURCES = 100_000


def make_source(given: Mapping[str, Any], where: str, folder: Path = Path()) -> OwnSource:
    """A source from named values, as a line of a list or the command line gives them; empty ones count as not given.

    Raises:
        InputError: an unknown name, a value that cannot be meant, or a file that is not there.
    """
    values = {key: value for key, value in given.items() if value not in (None, "", [], ())}
    if unknown := [key for key in values if key not in COLUMNS]:
        raise InputError(f"{where}: there is no column {short(unknown[0])}; known are {', '.join(COLUMNS)}.")
    if "target" not in values:
        raise InputError(f"{where}: no target video is named (column target).")
    made: dict[str, Any] = {}
    for name in _PATHS:
        if name in values:
            made[name] = folder / expanded(_text(values[name], name, where))
            if not made[name].exists():
                raise InputError(f"{where}: there is no {name.replace('_', ' ')} {made[name]}.")
    made |= {name: _text(values[name], name, where) for name in _PLAIN if name in values}
    made["name"] = _clean(_text(values.get("name", _own_name(made)), "name", where), where)
    if "offset" in values:
        made["offset"] = _number(values["offset"], "offset", where)
    if "characters" in values:
        made["characters"] = _count(values["characters"], where)
    made["scene"] = _choice(Scene, values.get("scene", Scene.AUTO), "scene", where)
    texts = values.get("text", ())
    texts = [part for part in texts.split(";") if part.strip()] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple):
        raise InputError(
            f"{where}: text is {short(texts)}; it is a region, a list of regions, or several after semicolons."
        )
    made["text"] = tuple(TextRegion.parse(_text(each, "text", where), folder) for each in texts)
    made["rights"] = Rights(
        licence=_text(values.get("licence", ""), "licence", where),
        consent=_choice(Consent, values.get("consent", Consent.UNKNOWN), "consent", where),
        note=_text(values.get("note", ""), "note", where),
    )
    return _checked(OwnSource(**made), where)


def _checked(source: OwnSource, where: str) -> OwnSource:
    if source.driving is None:
        lone = {"driving_mask": source.driving_mask, "offset": source.offset, "driving_caption": source.driving_caption}
        if said := [name for name, value in lone.items() if value not in (None, "")]:
            raise InputError(f"{where}: {said[0]} is given for {source.name}, which has no driving video.")
    elif source.driving.resolve() == source.target.resolve():
        raise InputError(
            f"{where}: driving and target video are one file ({source.target}): give it as a single video."
        )
    if any(region.side == "driving" for region in source.text) and source.driving is None:
        raise InputError(f"{where}: text is named in a driving video, but {source.name} has none.")
    return source


def _own_name(paths: Mapping[str, Path]) -> str:
    """Of the target's file; of both where a driving video has another name: one target may have several."""
    stems = dict.fromkeys(paths[role].stem for role in ("driving", "target") if role in paths)
    return "-".join(stems)


def _clean(name: str, where: str) -> str:
    cleaned = _NAME.sub("-", name).strip("-")[:80]
    if not cleaned:
        raise InputError(
            f"{where}: {short(name)} is no name, which has letters from A to Z or digits: say one with --name or in the list's "
            "column 'name', or rename the file."
        )
    return cleaned


def _text(value: Any, name: str, where: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:g}" if isinstance(value, float) else short(value)
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"{where}: {name} must be text, not {short(value)}.")
    return value.strip()


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) <= 1e6:
        raise InputError(f"{where}: {name} must be a number of seconds, not {short(value)}.")
    return number


def _count(value: Any, where: str) -> int:
    number = _number(value, "characters", where)
    if number != int(number) or not 1 <= number <= 6:
        raise InputError(f"{where}: characters must be a whole number from 1 to 6, not {short(value)}.")
    return int(number)


def _choice(kind: type[StrEnum], value: Any, name: str, where: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{where}: {name} must be one of {', '.join(kind)}, not {short(value)}.") from None


# ---- lists and folders -----------------------------------------------------------------------------------------------


def read_list(path: Path, defaults: Mapping[str, Any]) -> list[OwnSource]:
    """Sources from a CSV file with a head line, or a file with one JSON object a line; relative paths from its folder.

    ``defaults`` fill the columns that a line leaves out.
    """
    text = read_document(path).decode("utf-8-sig", errors="replace")
    if path.suffix.lower() == ".csv":
        rows = [(f"{path}, line {number}", row) for number, row in _csv_rows(path, text)]
    else:
        lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        rows = [(where, parse_json(line, dict[str, Any], where)) for where, line in lines]
    if not rows:
        raise InputError(f"{path} lists no videos.")
    if len(rows) > MOST_SOURCES:
        raise InputError(f"{path} lists more than {MOST_SOURCES:,} sources: divide it.")
    return distinct([make_source({**defaults, **_said(row)}, where, path.parent) for where, row in rows])


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value not in (None, "")}


def _csv_rows(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True, skipinitialspace=True)
    try:
        names = [str(name).strip() for name in reader.fieldnames or ()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{path}: two columns are called {twice[0]}; keep one of them.")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}, line {reader.line_num}: it has another number of values than the head line.")
            yield reader.line_num, {str(key).strip(): value for key, value in row.items()}
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: it is not CSV: {error}.") from None


FOLDERS = ("target", "driving", "target_mask", "driving_mask", "caption")


def read_folder(path: Path, defaults: Mapping[str, Any]) -> list[OwnSource]:
    """Sources from `target/`, `driving/`, `target_mask/`, `driving_mask/` and `caption/` (text) in a folder, by name.

    A target without a driving video of its name is a single video. A folder without `target/` holds single videos.
    """
    inside = {name: _named(path / name) for name in FOLDERS if (path / name).is_dir()}
    targets = inside.get("target") or ({} if "target" in inside else _named(path, files_only=True))
    if not targets:
        raise InputError(
            f"{path} holds no videos: put pairs into driving/ and target/ under one name each, single videos into target/."
        )
    for role, named in inside.items():
        if strange := sorted(named.keys() - targets.keys()):
            raise InputError(
                f"{path / role} holds {strange[0]}, but there is no target of that name in {path / 'target'}."
            )
    sources = []
    for stem, target in sorted(targets.items()):
        row: dict[str, Any] = {"name": stem, "target": target}
        row |= {role: each[stem] for role, each in inside.items() if role not in ("target", "caption") and stem in each}
        if stem in inside.get("caption", {}):
            row["caption"] = read_document(inside["caption"][stem]).decode("utf-8-sig", errors="replace").strip()
        single = {} if "driving" in row else {"offset": None, "driving_caption": None}
        sources.append(make_source({**defaults, **single, **row}, str(path / "target" / stem)))
    return distinct(sources)


def _named(folder: Path, *, files_only: bool = False) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for each in sorted(folder.iterdir()):
        if each.name.startswith(".") or (files_only and each.is_dir()):
            continue
        if named.setdefault(each.stem, each) is not each:
            raise InputError(f"{named[each.stem]} and {each.name} have one name: which of them is meant?")
    return named


def distinct(sources: Sequence[OwnSource]) -> list[OwnSource]:
    """The sources; raises `InputError` where two have one name."""
    seen: set[str] = set()
    for source in sources:
        if source.name in seen:
            raise InputError(f"two sources are called {source.name}: give each a name of its own (column name).")
        seen.add(source.name)
    return list(sources)


def to_json(source: OwnSource) -> dict[str, Any]:
    """What is kept about a source with everything that is made of it."""
    kept = {name: getattr(source, name) for name in ("style", "character", "driving_character", "motion")}
    return {
        "source": source.name,
        "files": {side: path.name for side, path in source.videos.items()},
        "licence": source.rights.licence,
        "consent": source.rights.consent.value,
        "note": source.rights.note,
        **{name: value for name, value in kept.items() if value},
    }
