"""Looking at pairs of one's own: sheets, the card, its page, filters, splits and near-duplicates."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from own_material import figure, film, make_pair, number_of, write
from PIL import Image
from test_own_pairs import MAKING, SMALL, added, pairs_in, refused, run

from scail2.cli.app import main
from scail2.data.cache import CacheWork
from scail2.data.own.choosing import groups, split
from scail2.data.own.folder import read_ledger
from scail2.data.own.likeness import near_duplicates
from scail2.data.own.listing import Listed, Listing
from scail2.data.own.making import Making
from scail2.data.own.verdicts import Limits
from scail2.data.shards import Record
from scail2.data.sources import EachPairOnce, PairShards
from scail2.data.triplet_settings import triplet_settings
from scail2.errors import InputError


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder of three sources: a pair with text and a licence, a single video, and one that gives nothing."""
    place = tmp_path_factory.mktemp("own")
    files = make_pair(place / "pair")
    rights = {
        "licence": "CC-BY-4.0",
        "consent": "given",
        "note": "made | here",
        "style": "2D",
        "character": "<b>Ann</b>",
    }
    pair = files | rights | {"name": "dance", "caption": "</script><script>alert(1)", "text": ["target:0,0,64,16"]}
    alone = {role: path for role, path in make_pair(place / "alone", seed=3).items() if role.startswith("target")}
    still, mask = film([figure(np.full(20, 0.3))], colours=[(220, 40, 40)])
    quiet = {"target": write(place / "still.mkv", still), "target_mask": write(place / "still_mask.mkv", mask)}
    added(place / "pairs", pair, alone | {"name": "alone", "style": "real"}, quiet | {"name": "quiet"})
    return place


def test_check_shows_each_clip_and_names_what_was_thrown_away(material):
    told = json.loads(run("pairs", "check", material / "pairs", "--json"))
    assert told["kinds"] == {"animation_single": 2, "self_driven": 2}
    assert (told["pairs"], told["with_text"], told["captioned"], told["lengths"]) == (4, 2, 2, {"17": 4})
    assert told["discards"] == {"too short": 2, "too little motion": 1}
    assert [each["source"] for each in told["discarded"]] == ["dance", "alone", "quiet"]
    assert told["sheets"] == [str(material / "pairs" / "check-000.png")]
    sheet = np.asarray(Image.open(told["sheets"][0]))
    # The third row: driving video and target at the first moment, each 112 pixels high under its label.
    target = sheet[2 * 130 + 14 : 2 * 130 + 126, 116:228]
    assert abs(target[100, 10].astype(int) - 60).max() <= 2  # the target's ground
    text = target[8:20, 60:100]
    assert ((text[..., 1] < 20) & (text[..., 2] > 180)).mean() > 0.2  # text, hatched
    figure_pixels = (target[..., 2] > 80) & (target[..., 0] > 90)
    assert figure_pixels.sum() > 300  # red, tinted in the first slot's blue
    plain = run("pairs", "check", material / "pairs", "--no-pictures")
    assert "left out quiet 0 to 1.062 s, too little motion: 0.000 of the outline" in plain


@pytest.mark.parametrize("samples", [4, None])
def test_the_triplets_shown_are_those_that_the_cache_draws(material, samples):
    given = [] if samples is None else ["--samples", str(samples)]
    run("pairs", "triplets", material / "pairs", *given, "--seed", "5")
    sheet = np.asarray(Image.open(material / "pairs" / "triplets-000.png"))
    pairs = PairShards((material / "pairs",))
    recipe = triplet_settings("nano")
    import dataclasses

    recipe = dataclasses.replace(recipe, shares=pairs.shares(recipe.shares))
    taken = pairs if samples else EachPairOnce(pairs, dict(recipe.shares))
    work = CacheWork(source=taken, triplets=recipe, autoencoder=material, samples=samples or 8, seed=5)
    drawn = [triplet for number in range(work.num_pairs) for _, _, triplet in work.drawn(number)]
    for row, triplet in enumerate(drawn):
        top = row * (112 + 14 + 4) + 14
        shown = sheet[top : top + 112, :112]
        wanted = np.asarray(Image.fromarray(triplet.reference).resize((112, 112), Image.Resampling.BILINEAR))
        assert np.array_equal(shown, wanted)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


def test_the_card_and_its_page(material):
    told = run(
        "pairs", "card", material / "pairs", "--out", material / "card", "--title", "Two <dances>", "--require-consent"
    )
    assert "not taken alone-000000: consent unknown" in told
    card = json.loads((material / "card" / "card.json").read_text())
    assert card["shares"] == {"animation_single": 50.0, "self_driven": 50.0}
    assert card["licences"] == {"CC-BY-4.0": 2, "not named": 2}
    assert card["splits"] == {"train": 2}
    assert card["left_out"] == {"consent unknown": 2}
    assert card["sources"]["quiet"] == {
        "pairs": 0, "seconds": 0, "discarded": 1, "licence": "", "consent": "unknown", "note": "",
        "files": {"target": "still.mkv"},
    }  # fmt: skip
    text = (material / "card" / "card.md").read_text()
    assert "# Two \\<dances\\>" in text
    assert "| dance | 2 | 2.125 | 1 | CC-BY-4.0 | given | made \\| here |" in text
    page = (material / "card" / "index.html").read_text()
    reader = Page()
    reader.feed(page)
    assert reader.links == []  # nothing from elsewhere; pictures are set by the page's own script
    assert reader.tags.count("script") == 2
    assert "https://" not in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [clip["key"] for clip in data] == ["alone-000000", "alone-000017", "dance-000000", "dance-000017"]
    assert data[2]["caption"] == "</script><script>alert(1)"
    assert data[2]["characters"] == "<b>Ann</b>"
    thumbnail = np.asarray(Image.open(material / "card" / data[2]["picture"]))
    assert thumbnail.shape == (96, 576, 3)  # driving video and target at three moments
    assert abs(thumbnail[80, 10].astype(int) - 150).max() < 8  # the driving video's ground
    assert abs(thumbnail[80, 106].astype(int) - 60).max() < 8  # the target's
    run("pairs", "card", material / "pairs", "--out", material / "card")  # its own card is replaced


def test_pairs_are_selected_by_licence(material, capfd):
    run("pairs", "select", material / "pairs", "--out", material / "free", "--licence", "cc-by-4.0")
    assert list(pairs_in(material / "free")) == ["dance-000000", "dance-000017"]
    assert read_ledger(material / "free").sources["dance"].clips == {"animation_single": 2}
    whole = pairs_in(material / "pairs")["dance-000017"]
    assert np.array_equal(pairs_in(material / "free")["dance-000017"].real.frames, whole.real.frames)
    told = refused(capfd, "pairs", "select", material / "pairs", "--out", material / "none", "--licence", "MIT")
    assert "none of the 4 pairs" in told
    assert not (material / "none").exists()


def of_one_source(material, folder):
    run("pairs", "select", material / "pairs", "--out", folder, "--licence", "cc-by-4.0")


def test_a_split_that_gets_nothing_is_named_and_the_others_lie_where_they_would(material, tmp_path, capfd):
    of_one_source(material, tmp_path / "one")
    with pytest.raises(SystemExit, match="0"):
        main(["pairs", "select", str(tmp_path / "one"), "--out", str(tmp_path / "out"), "--split", "0.5,0.5"])
    told = capfd.readouterr()
    assert "warning: nothing for validation" in told.err
    assert "2 pairs for train, 0 pairs for validation" in told.out
    assert list(pairs_in(tmp_path / "out" / "train")) == ["dance-000000", "dance-000017"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]


@pytest.mark.parametrize("verb", [("check",), ("card", "--out", "card"), ("select", "--out", "chosen")])
def test_a_damaged_ledger_is_said_to_be_damaged(material, tmp_path, capfd, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    of_one_source(material, tmp_path / "one")
    capfd.readouterr()
    whole = (tmp_path / "one" / "pairs.json").read_bytes()
    (tmp_path / "one" / "pairs.json").write_bytes(whole[: len(whole) // 2])
    told = refused(capfd, "pairs", verb[0], tmp_path / "one", *verb[1:])
    assert "pairs.json" in told
    assert "JSON" in told
    with pytest.raises(InputError, match="JSON"):
        read_ledger(tmp_path / "one")


def test_a_copy_is_found_and_another_motion_is_not(tmp_path):
    making = Making(reading=SMALL, frames=17, poses=None, limits=Limits(least_agreement=-1))
    assert MAKING.frames == 17
    first = make_pair(tmp_path / "1")
    generator = np.random.default_rng(0)
    frames, mask = film([figure(np.arange(45) / 16)], colours=[(225, 50, 38)], ground=64)
    noisy = np.clip(frames + generator.normal(0, 1, frames.shape), 0, 255).astype(np.uint8)
    copy = {"target": write(tmp_path / "copy.mkv", noisy), "target_mask": write(tmp_path / "copy_mask.mkv", mask)}
    alone = {role: path for role, path in first.items() if role.startswith("target")} | {"name": "first"}
    other = {role: path for role, path in make_pair(tmp_path / "2", seed=3).items() if role.startswith("target")}
    added(tmp_path / "out", alone, copy | {"name": "copy"}, other | {"name": "other"}, making=making)
    twins = near_duplicates(Listing.of(tmp_path / "out").pairs)
    assert [(each.key, each.of) for each in twins] == [("first-000000", "copy-000000"), ("first-000017", "copy-000017")]
    run("pairs", "select", tmp_path / "out", "--out", tmp_path / "once")
    assert list(pairs_in(tmp_path / "once")) == ["copy-000000", "copy-000017", "other-000000", "other-000017"]
    run("pairs", "select", tmp_path / "out", "--out", tmp_path / "twice", "--duplicates", "--split", "0.5,0.5")
    sides = [set(pairs_in(tmp_path / "twice" / name)) for name in ("train", "validation")]
    assert {"first-000000", "copy-000000"} <= sides[0]
    assert sides[1] == {"other-000000", "other-000017"}
    assert number_of(pairs_in(tmp_path / "twice" / "validation")["other-000017"].real.frames[0]) == 17


def listed(key: str, *, source: str, characters: tuple[str, ...] = (), motion: str = "") -> Listed:
    record = Record(None, key, {"meta": {"made": "pair", "source": source}}, {})
    return Listed(record=record, kind="animation_single", source=source, characters=characters, motion=motion)


def test_no_character_or_motion_is_in_two_splits():
    generator = np.random.default_rng(0)
    pairs = [
        listed(
            f"s{n}-{clip}",
            source=f"s{n}",
            characters=(f"c{generator.integers(30)}",),
            motion=f"m{generator.integers(60)}",
        )
        for n in range(60)
        for clip in range(2)
    ]
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    chosen = split(pairs, shares)
    assert len(chosen) == 120
    for of in (lambda p: p.characters, lambda p: p.motion, lambda p: p.source):
        sides = {}
        for pair in pairs:
            sides.setdefault(of(pair), set()).add(chosen[pair.key])
        assert max(map(len, sides.values())) == 1
    # Names in other capitals are the same person's.
    assert (
        len(groups([listed("a", source="1", characters=("Ann",)), listed("b", source="2", characters=("ANN",))])) == 1
    )
    apart = [listed(f"k{n}", source=f"s{n}") for n in range(100)]
    counts = [list(split(apart, shares).values()).count(name) for name in shares]
    assert counts == [60, 20, 20]
    assert split(apart, shares, salt="x") != split(apart, shares)
    assert split(list(reversed(apart)), shares) == split(apart, shares)


def test_pairs_of_other_makers_are_listed_too(tmp_path):
    run(
        "synthesize",
        "--out",
        tmp_path / "pairs",
        "--pairs",
        "3",
        "--size",
        "32",
        "--frames",
        "9",
        "--no-poses",
        "--workers",
        "1",
    )
    told = json.loads(run("pairs", "check", tmp_path / "pairs", "--json"))
    assert (told["pairs"], told["lengths"], told["seconds"]) == (3, {"9": 3}, 1.688)
    run("pairs", "card", tmp_path / "pairs", "--out", tmp_path / "card", "--split", "0.7,0.3")
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert (card["pairs"], card["people"], card["splits"]) == (
        3,
        {"groups": 3, "unnamed": 3},
        {"train": 2, "validation": 1},
    )
    run("pairs", "select", tmp_path / "pairs", "--out", tmp_path / "halves", "--split", "0.7,0.3")
    assert [len(pairs_in(tmp_path / "halves" / name)) for name in ("train", "validation")] == [2, 1]
