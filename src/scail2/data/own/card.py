"""The data card of a folder of pairs: what is in it, whose it is, and what was thrown away; as text, as JSON, and as a page."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scail2.data.own.choosing import Chosen
from scail2.data.own.likeness import Twin
from scail2.data.own.listing import Listed, Listing
from scail2.data.own.pictures import shown_frame
from scail2.data.pairs import read_pair
from scail2.data.shards import DamagedSample
from scail2.files.ownership import Kind, claimed_folder, is_document
from scail2.files.staging import atomic_file

CARD = Kind("data cards", "card.json", lambda folder: is_document(folder / "card.json", {"title", "pairs", "shares"}))
_THUMBNAIL = 96
_MARK = "/*CLIPS*/"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        shares: of the pairs, by construction, in percent.
        splits: pairs by split; `left_out` those in none, by reason.
        people: how many groups are kept apart, and how many pairs name nobody.
    """

    title: str
    pairs: int
    seconds: float
    shares: dict[str, float]
    splits: dict[str, int]
    left_out: dict[str, int]
    licences: dict[str, int]
    consents: dict[str, int]
    styles: dict[str, int]
    sources: dict[str, dict[str, Any]]
    discards: dict[str, int]
    duplicates: list[dict[str, Any]]
    statistics: dict[str, Any]
    people: dict[str, int]


def make_card(listing: Listing, chosen: Chosen, twins: Sequence[Twin], *, title: str, apart: int) -> Card:
    """The card of a folder; ``apart`` groups of pairs have nothing in common."""
    pairs = listing.pairs
    total = max(len(pairs), 1)
    return Card(
        title=title,
        pairs=len(pairs),
        seconds=round(sum(each.seconds for each in pairs), 3),
        shares={kind: round(100 * count / total, 2) for kind, count in listing.kinds.items()},
        splits=dict(Counter(chosen.splits.values())),
        left_out=dict(Counter(chosen.left_out.values())),
        licences=dict(Counter(each.licence or "not named" for each in pairs)),
        consents=dict(Counter(each.consent.value for each in pairs)),
        styles=dict(Counter(style for each in pairs for style in each.styles or ("not named",))),
        sources={name: _source(listing, name) for name in listing.sources},
        discards=listing.discards,
        duplicates=[asdict(each) for each in twins],
        statistics=listing.statistics(),
        people={"groups": apart, "unnamed": sum(not each.characters for each in pairs)},
    )


def _source(listing: Listing, name: str) -> dict[str, Any]:
    inside = [each for each in listing.pairs if each.source == name]
    entry = listing.ledger.sources.get(name) if listing.ledger is not None else None
    said: Mapping[str, Any] = entry.said if entry is not None else {}
    first = inside[0] if inside else None
    return {
        "pairs": len(inside),
        "seconds": round(sum(each.seconds for each in inside), 3),
        "discarded": len(entry.discarded) if entry is not None else 0,
        "licence": first.licence if first is not None else said.get("licence", ""),
        "consent": first.consent.value if first is not None else said.get("consent", "unknown"),
        "note": said.get("note", ""),
        "files": said.get("files", {}),
    }


def card_text(card: Card) -> str:
    """The card as Markdown."""
    hours = f"{card.seconds / 3600:.2f} hours" if card.seconds >= 3600 else f"{card.seconds:g} seconds"
    parts = [f"# {_plain(card.title)}", f"{card.pairs} motion pairs, {hours} of each side."]
    parts += [_table("construction", "share", {k: f"{v:g} %" for k, v in card.shares.items()})]
    for name, values in (
        ("split", card.splits), ("not taken, because", card.left_out), ("licence", card.licences),
        ("consent", card.consents), ("style", card.styles), ("discarded, because", card.discards),
    ):  # fmt: skip
        if values:
            parts.append(_table(name, "pairs" if name != "discarded, because" else "stretches", values))
    apart = card.people["groups"]
    named = (
        "Pairs with a character, motion, source or file in common are never in different splits; of such groups there "
    )
    named += f"{_count(apart)}."
    if card.people["unnamed"]:
        named += f" Pairs that name no character: {card.people['unnamed']}; who is the same in them is not known."
    parts.append(named)
    if card.duplicates:
        parts.append("Nearly the same:")
        parts.append("\n".join(f"- {each['key']} is nearly {each['of']}" for each in card.duplicates))
    rows = ["| source | pairs | seconds | thrown away | licence | consent | note |", "|---|---|---|---|---|---|---|"]
    for name, each in card.sources.items():
        cells = (
            name,
            each["pairs"],
            f"{each['seconds']:g}",
            each["discarded"],
            each["licence"],
            each["consent"],
            each["note"],
        )
        rows.append("| " + " | ".join(_plain(str(cell)) for cell in cells) + " |")
    return "\n\n".join([*parts, "\n".join(rows)]) + "\n"


def _count(number: int) -> str:
    return "is one" if number == 1 else f"are {number}"


def _table(name: str, unit: str, values: Mapping[str, Any]) -> str:
    rows = [f"| {_plain(str(key))} | {value} |" for key, value in values.items()]
    return "\n".join([f"| {name} | {unit} |", "|---|---|", *rows])


def _plain(text: str) -> str:
    """Text that stays text in Markdown: one line, no table, link or tag of its own."""
    kept = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\|`*_[]<>#" else c for c in kept)


def write_card(listing: Listing, card: Card, chosen: Chosen, out: Path) -> list[str]:
    """Writes `card.md`, `card.json`, `index.html` and `thumbnails/` into a folder; returns what could not be shown."""
    unread = []
    clips = []
    with claimed_folder(out, CARD) as folder:
        for old in (folder / "thumbnails").glob("*.jpg"):
            old.unlink()
        for number, pair in enumerate(listing.pairs):
            name = f"thumbnails/{number:06d}.jpg"
            try:
                _write_thumbnail(pair, folder / name)
            except DamagedSample as damage:
                unread.append(str(damage))
                continue
            clips.append(_clip(pair, name, chosen))
        page = files("scail2").joinpath("assets/pairs/viewer.html").read_text(encoding="utf-8")
        # No text of somebody's can end the script that holds it.
        data = json.dumps(clips).replace("<", "\\u003c").replace("\u2028", " ").replace("\u2029", " ")
        page = data.join(part.replace("TITLE", escape(card.title)) for part in page.split(_MARK))
        for name, content in (
            ("index.html", page), ("card.md", card_text(card)), ("card.json", json.dumps(asdict(card), indent=1)),
        ):  # fmt: skip
            with atomic_file(folder / name) as file:
                file.write(content.encode("utf-8", "replace"))
    return unread


def _clip(pair: Listed, thumbnail: str, chosen: Chosen) -> dict[str, Any]:
    return {
        "key": pair.key, "kind": pair.kind, "source": pair.source, "licence": pair.licence or "not named",
        "consent": pair.consent.value, "style": ", ".join(pair.styles) or "not named", "motion": pair.motion,
        "characters": ", ".join(pair.characters), "frames": pair.frames, "seconds": round(pair.seconds, 3),
        "split": chosen.splits.get(pair.key, "none"), "why": chosen.left_out.get(pair.key, ""), "picture": thumbnail,
        "caption": str(pair.record.meta.get("clips", {}).get("real", {}).get("caption", "")),
    }  # fmt: skip


def _write_thumbnail(of: Listed, path: Path) -> None:
    pair = read_pair(of.record)
    sides = [pair.real] if pair.is_single else [pair.synthetic, pair.real]
    last = len(pair.real.frames) - 1
    strip = [shown_frame(clip, number) for number in (0, last // 2, last) for clip in sides]
    picture = Image.fromarray(np.concatenate(strip, axis=1))
    picture = picture.resize((max(1, round(picture.width * _THUMBNAIL / picture.height)), _THUMBNAIL))
    with atomic_file(path) as file:
        picture.save(file, format="JPEG", quality=85)
