"""`scail2 pairs check`, `triplets`, `card` and `select`: looking at pairs, telling about them, taking some of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scail2.cli.terminal import Terminal, say, write_json

if TYPE_CHECKING:
    from scail2.data.own.choosing import Chosen, Wanted
    from scail2.data.own.likeness import Twin
    from scail2.data.own.listing import Listing

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pairs.")]
_Licence = Annotated[list[str] | None, typer.Option(help="Only pairs of this licence; repeatable.")]
_Consent = Annotated[bool, typer.Option("--require-consent", help="Only with consent given or not needed.")]
_Duplicates = Annotated[
    bool, typer.Option("--duplicates/--no-duplicates", help="Keep pairs that are nearly others of another source.")
]
_SHOWN = 10  # triplets, where nobody says how many
_Salt = Annotated[str, typer.Option(help="Another division with the same shares.")]


def check(
    folder: _Folder,
    pictures: Annotated[bool, typer.Option(help="Contact sheets, DIR/check-000.png …")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Show what is in a folder of pairs and what was thrown away: contact sheets, statistics, reasons."""
    from scail2.data.own.listing import Listing
    from scail2.data.own.pictures import write_sheets
    from scail2.files.ownership import locked

    listing = Listing.of(folder)
    unread: list[str] = []
    sheets: list[Path] = []
    if pictures and listing.pairs:
        with locked(folder):
            sheets = write_sheets(folder, "check", _pair_rows(listing, unread))
    told = listing.statistics()
    told["damaged"] += unread
    if as_json:
        write_json(told | {"sheets": [str(each) for each in sheets], "discarded": list(listing.discarded())})
        return
    _tell(told)
    for each in listing.discarded():
        span = f" {each['start']:g} to {each['stop']:g} s" if each["stop"] else ""
        say(f"left out {each['source']}{span}, {each['reason']}: {each['detail']}")
    if sheets:
        say(f"pictures: {sheets[0]}" + (f" to {sheets[-1].name}" if len(sheets) > 1 else ""))


def _pair_rows(listing: "Listing", unread: list[str]) -> Iterator[tuple[str, list[Any]]]:
    from scail2.data.own.pictures import pair_row
    from scail2.data.pairs import read_pair
    from scail2.data.shards import DamagedSample

    for each in listing.pairs:
        try:
            yield pair_row(each, read_pair(each.record))
        except DamagedSample as damage:
            unread.append(str(damage))


def _tell(told: dict[str, Any]) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in told["kinds"].items()) or "none"
    say(f"{told['pairs']} pairs, {told['seconds']:g} s: {kinds}")
    say(f"frames: {', '.join(f'{count} of {frames}' for frames, count in told['lengths'].items()) or 'none'}")
    say(f"captions: {told['captioned']}, with text left out of the loss: {told['with_text']}")
    for name, (low, middle, high) in told["measures"].items():
        say(f"{name}: {low:.3f} to {high:.3f}, middle {middle:.3f}")
    thrown = ", ".join(f"{count} {reason}" for reason, count in told["discards"].items())
    say(f"thrown away: {thrown or 'nothing'}")
    for each in told["damaged"]:
        say(f"damaged {each}")


def triplets(
    folder: _Folder,
    recipe: Annotated[str, typer.Option(help="As for scail2 cache.")] = "nano",
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="As for scail2 cache (default: the first ten of those it makes without it)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="As for scail2 cache.")] = 0,
) -> None:
    """Show the training triplets that scail2 cache would draw, as pictures DIR/triplets-000.png …

    Reference and its mask, then driving video, its mask and target at four moments.
    """
    import dataclasses

    from scail2.data.cache import CacheWork
    from scail2.data.own.pictures import triplet_row, write_sheets
    from scail2.data.sources import EachPairOnce, PairShards, PairSource
    from scail2.data.triplet_settings import triplet_settings
    from scail2.files.ownership import locked

    pairs = PairShards((folder,))
    chosen = triplet_settings(recipe)
    chosen = dataclasses.replace(chosen, shares=pairs.shares(chosen.shares))
    taken: PairSource = pairs
    if samples is None:
        taken = once = EachPairOnce(pairs, dict(chosen.shares))
        samples = min(_SHOWN, len(once.kinds) * chosen.samples_per_pair)
    work = CacheWork(source=taken, triplets=chosen, autoencoder=Path(), samples=samples, seed=seed)
    refused: list[str] = []

    def rows() -> Iterator[tuple[str, list[Any]]]:
        for number in range(work.num_pairs):
            for key, kind, triplet in work.drawn(number):
                if isinstance(triplet, str):
                    refused.append(f"{key}, {kind}: {triplet}")
                else:
                    yield triplet_row(key, triplet)

    with locked(folder):
        sheets = write_sheets(folder, "triplets", rows())
    for each in refused:
        say(f"cannot be made: {each}")
    if sheets:
        say(f"pictures: {sheets[0]}" + (f" to {sheets[-1].name}" if len(sheets) > 1 else ""))


def card(
    folder: _Folder,
    out: Annotated[Path, typer.Option(help="Folder for card.md, card.json and the page index.html.")],
    title: Annotated[str, typer.Option(help="Of the data set (default: the folder's name).")] = "",
    licence: _Licence = None,
    require_consent: _Consent = False,
    duplicates: _Duplicates = False,
    shares: Annotated[str, typer.Option("--split", help="Shares of train, validation and test.")] = "0.9,0.05,0.05",
    salt: _Salt = "",
) -> None:
    """Write the data card of a folder of pairs: sources, licences, shares, splits, discards; and a page to look through it."""
    from scail2.data.own.card import make_card, write_card
    from scail2.data.own.choosing import Wanted, groups
    from scail2.request.paths import refuse_overwriting

    refuse_overwriting([out], [("source", folder)])
    wanted = Wanted(licences=tuple(licence or ()), require_consent=require_consent)
    listing, chosen, twins = _chosen(folder, wanted, shares, salt, duplicates=duplicates)
    made = make_card(
        listing, chosen, twins, title=title or folder.resolve().name, apart=len(groups(listing.pairs, twins))
    )
    unread = write_card(listing, made, chosen, out)
    for each in unread:
        say(f"damaged {each}")
    _tell_choice(chosen)
    say(f"wrote {out / 'card.md'}, {out / 'card.json'} and {out / 'index.html'}")


def select(
    folder: _Folder,
    out: Annotated[Path, typer.Option(help="Folder for the chosen pairs; with several splits OUT/train and so on.")],
    licence: _Licence = None,
    require_consent: _Consent = False,
    duplicates: _Duplicates = False,
    shares: Annotated[str, typer.Option("--split", help="Shares of train, validation and test.")] = "1",
    salt: _Salt = "",
) -> None:
    """Take pairs by licence and consent, without near-duplicates, divided so that no character or motion is in two splits."""
    from scail2.data.own.choosing import Wanted, write_selection
    from scail2.request.paths import refuse_overwriting

    refuse_overwriting([out], [("source", folder)])
    wanted = Wanted(licences=tuple(licence or ()), require_consent=require_consent)
    listing, chosen, _ = _chosen(folder, wanted, shares, salt, duplicates=duplicates)
    counts = write_selection(listing, chosen, out)
    _tell_choice(chosen)
    say(f"wrote {', '.join(f'{count} pairs for {name}' for name, count in counts.items())} to {out}")


def _chosen(
    folder: Path, wanted: "Wanted", shares: str, salt: str, *, duplicates: bool
) -> "tuple[Listing, Chosen, list[Twin]]":
    from scail2.data.own.choosing import choose, parse_shares
    from scail2.data.own.likeness import near_duplicates
    from scail2.data.own.listing import Listing

    parsed = parse_shares(shares)
    listing = Listing.of(folder)
    for line in listing.damage.lines():
        Terminal(stderr=True).say(f"warning: {line}")
    twins = near_duplicates([pair for pair in listing.pairs if wanted.refusal(pair) is None])
    return listing, choose(listing, wanted, parsed, twins, salt=salt, keep_twins=duplicates), twins


def _tell_choice(chosen: "Chosen") -> None:
    for name, count in chosen.counts.items():
        say(f"{name}: {count} pairs")
        if not count:
            Terminal(stderr=True).say(
                f"warning: nothing for {name}: what shares a character, motion or source stays together."
            )
    for key, why in chosen.left_out.items():
        say(f"not taken {key}: {why}")
