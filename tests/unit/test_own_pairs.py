"""Pairs of one's own videos: laid over each other, cut, checked, named, and read again by the cache."""

import json
from fractions import Fraction

import numpy as np
import pytest
from endpoint_server import Turn, scripted_endpoint
from own_material import FPS, figure, film, make_pair, number_of, write
from typer.testing import CliRunner

from scail2.cli.app import build_app, main
from scail2.data.dataset import LatentDataset
from scail2.data.own.folder import Adding, add_sources, read_ledger
from scail2.data.own.making import Making
from scail2.data.own.material import Reading
from scail2.data.own.sources import make_source
from scail2.data.own.text_regions import TextRegion, excluded_pixels
from scail2.data.own.timing import Signals, measure
from scail2.data.own.verdicts import Reason
from scail2.data.pairs import MotionPair, read_pair
from scail2.data.shards import DamageReport, find_shards, read_index
from scail2.data.sources import PairShards
from scail2.data.triplet_settings import SampleKind, triplet_settings
from scail2.data.triplets import draw_triplet
from scail2.errors import InputError
from scail2.training.config import DataConfig, MixtureKnot
from scail2.training.latent_batches import LatentBatches
from scail2.video import probe

SMALL = Reading(size=(64, 64), joints=False)
MAKING = Making(reading=SMALL, frames=17, poses=None)


def pairs_in(folder) -> dict[str, MotionPair]:
    report = DamageReport()
    records = [record for shard in find_shards(folder) for record in read_index(shard, report)]
    assert not report
    return {record.key: read_pair(record) for record in records}


def added(folder, *given: dict, making: Making = MAKING, replace: bool = False):
    sources = [make_source(each, "test") for each in given]
    return {o.name: o for o in add_sources(sources, folder, Adding(making=making, replace=replace))}


def run(*arguments) -> str:
    done = CliRunner().invoke(build_app(), [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(capfd, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert stop.value.code == 2
    told = capfd.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1, told
    return told


# ---- in time --------------------------------------------------------------------------------------------------------


def test_the_offset_is_found_and_frames_of_one_moment_lie_beside_each_other(tmp_path):
    outcome = added(tmp_path / "out", make_pair(tmp_path, late=5))["driving-target"]
    facts = outcome.entry.facts
    assert (facts["offset"], facts["signal"], facts["scene"]) == (5 / 16, "outlines", "own")
    assert facts["agreement"] > 0.8 > facts["other_offsets"] + 0.2
    pairs = pairs_in(tmp_path / "out")
    assert list(pairs) == ["driving-target-000000", "driving-target-000017"]
    for start, pair in zip((0, 17), pairs.values(), strict=True):
        assert pair.construction is SampleKind.ANIMATION_SINGLE
        assert [number_of(frame) for frame in pair.real.frames] == list(range(start, start + 17))
        assert [number_of(frame) for frame in pair.synthetic.frames] == list(range(start + 5, start + 22))
        # One moment: both arms are open as wide, but for the figures' widths.
        widths = [clip.tracks[0].any(axis=1).sum(axis=1) for clip in (pair.real, pair.synthetic)]
        assert np.corrcoef(*widths)[0, 1] > 0.85
    assert pairs["driving-target-000017"].meta["start"] == 1.062
    assert pairs["driving-target-000000"].meta["start"] == 0


def test_a_given_offset_is_taken_as_it_is(tmp_path):
    files = make_pair(tmp_path, late=5)
    added(tmp_path / "out", files | {"offset": -0.25})
    pair = pairs_in(tmp_path / "out")["driving-target-000004"]
    assert (number_of(pair.real.frames[0]), number_of(pair.synthetic.frames[0])) == (4, 0)
    with pytest.raises(InputError, match="0 frames in common"):
        added(tmp_path / "none", files | {"offset": 60})


def test_one_rate_and_one_size(tmp_path):
    times = np.arange(60) / 32
    moved, mask = film([figure(times, scale=1.2, size=96)], colours=[(40, 90, 230)])
    files = make_pair(tmp_path, late=0, frames=30)
    files |= {"driving": write(tmp_path / "fast.mkv", moved, Fraction(32))}
    files |= {"driving_mask": write(tmp_path / "fast_mask.mkv", mask, Fraction(32))}
    outcome = added(tmp_path / "out", files)["fast-target"]
    assert outcome.entry.facts["offset"] == 0
    assert outcome.entry.facts["common_frames"] == 30
    pair = pairs_in(tmp_path / "out")["fast-target-000000"]
    assert pair.synthetic.frames.shape == pair.real.frames.shape == (17, 64, 64, 3)
    assert [number_of(frame) for frame in pair.synthetic.frames[:4]] == [0, 2, 4, 6]
    # What is stored plays at the clips' rate.
    record = read_index(find_shards(tmp_path / "out")[0], DamageReport())[0]
    (tmp_path / "real.mkv").write_bytes(record.read("real.mkv"))
    assert probe(tmp_path / "real.mkv").fps == 16


def test_who_moves_like_whom_is_found():
    times = np.arange(48) / 16
    one, other = (np.random.default_rng(seed).normal(size=(48, 6)).cumsum(axis=0) for seed in (1, 2))
    assert len(times) == len(one)
    found = measure(Signals(target=[one, other], driving=[other * 2, one * 0.5]), most=4, fps=16)
    assert (found.shift, found.order) == (0, (1, 0))
    assert found.agreement > 0.999
    bound = measure(Signals(target=[one, other], driving=[other * 2, one * 0.5], bound=True), most=0, fps=16)
    assert bound.order == (0, 1)
    assert bound.agreement < 0.9


# ---- cuts and lengths -------------------------------------------------------------------------------------------------


def test_no_clip_crosses_a_cut_and_rests_are_named(tmp_path):
    times = np.arange(50) / float(FPS)
    frames, mask = film([figure(times)], colours=[(220, 40, 40)])
    frames[22:] = 255 - frames[22:]
    target = {"target": write(tmp_path / "clip.mkv", frames), "target_mask": write(tmp_path / "mask.mkv", mask)}
    outcome = added(tmp_path / "out", target, making=Making(reading=SMALL, frames=21, poses=None))["clip"]
    pairs = pairs_in(tmp_path / "out")
    assert {key: len(pair.real.frames) for key, pair in pairs.items()} == {"clip-000000": 21, "clip-000022": 21}
    # The second scene has a beginning of its own: nothing before it belongs to its performance.
    assert pairs["clip-000022"].meta["start"] == 0
    assert [(d["reason"], d["start"], d["stop"]) for d in outcome.entry.discarded] == [("too short", 2.688, 3.125)]


def test_a_single_video_drives_itself_and_its_silhouette_replaces(tmp_path):
    files = {role: path for role, path in make_pair(tmp_path).items() if role.startswith("target")}
    making = Making(reading=SMALL, frames=17, poses=None, mask_pairs=True)
    outcome = added(tmp_path / "out", files, making=making)["target"]
    assert outcome.entry.clips == {"self_driven": 2, "replacement_single": 2}
    pairs = pairs_in(tmp_path / "out")
    own, flat = pairs["target-000000"], pairs["target-000000-mask"]
    assert own.is_single
    assert np.array_equal(own.real.frames, own.synthetic.frames)
    inside = flat.real.tracks[0]
    assert (flat.synthetic.frames[inside] == 128).all()
    assert (flat.real.frames[inside] != 128).any()
    assert np.array_equal(flat.synthetic.frames[~inside], flat.real.frames[~inside])
    # Nobody should learn to make silhouettes: both directions of a recipe give the true clip as the target.
    for swapped in (False, True):
        generator = np.random.default_rng(0)
        recipe = triplet_settings("paper+forward_driving")
        made = draw_triplet(flat, SampleKind.REPLACEMENT_SINGLE, recipe, generator, swapped=swapped)
        assert np.array_equal(made.target, flat.real.frames)
        assert np.array_equal(made.driving, flat.synthetic.frames)


# ---- what is thrown away ----------------------------------------------------------------------------------------------


def discarded(tmp_path, given: dict) -> tuple[str, str]:
    good = make_pair(tmp_path / "good") | {"name": "good"}
    entry = added(tmp_path / "out", good, given | {"name": "bad"})["bad"].entry
    assert not entry.clips
    assert entry.discarded
    return entry.discarded[0]["reason"], entry.discarded[0]["detail"]


def test_little_motion_gaps_and_other_motions_are_named(tmp_path):
    files = make_pair(tmp_path / "other", driving_seed=9)
    assert discarded(tmp_path / "a", files)[0] == Reason.MISALIGNED
    still, mask = film([figure(np.full(20, 0.3))], colours=[(220, 40, 40)])
    clip = {"target": write(tmp_path / "still.mkv", still), "target_mask": write(tmp_path / "still_mask.mkv", mask)}
    assert discarded(tmp_path / "b", clip) == (
        Reason.LITTLE_MOTION, "0.000 of the outline changes from frame to frame (needed 0.01)",
    )  # fmt: skip
    frames, mask = film([figure(np.arange(20) / 16)], colours=[(220, 40, 40)])
    mask[4:9] = 0
    clip = {"target": write(tmp_path / "gap.mkv", frames), "target_mask": write(tmp_path / "gap_mask.mkv", mask)}
    assert discarded(tmp_path / "c", clip)[1] == "a character has no mask in 29% of the frames (allowed 10%)"


def test_other_numbers_of_people_are_refused(tmp_path):
    times = np.arange(30) / 16
    two = [figure(times, seed=s, centre=c, scale=0.6) for s, c in ((0, 0.25), (3, 0.75))]
    frames, mask = film(two, colours=[(220, 40, 40), (40, 200, 40)])
    files = make_pair(tmp_path, frames=30)
    files |= {"target": write(tmp_path / "two.mkv", frames), "target_mask": write(tmp_path / "two_mask.mkv", mask)}
    with pytest.raises(InputError, match=r"the driving video shows 1 and the target 2 characters"):
        added(tmp_path / "out", files)
    assert not (tmp_path / "out").exists()
    assert discarded(tmp_path / "list", files)[0] == Reason.COUNT
    files |= {"driving": files["target"], "driving_mask": files["target_mask"], "target": tmp_path / "again.mkv"}
    files["target"].write_bytes(files["driving"].read_bytes())
    entry = added(tmp_path / "multi", files)["two-again"].entry
    assert entry.clips == {"replacement_multi": 1}
    assert entry.facts["order"] == [0, 1]


def test_a_stretch_in_which_two_people_change_places_is_not_a_pair(tmp_path):
    """In the last clip the left one moves like the target's right one: bound as the others are, they do not agree."""
    times = np.arange(102) / float(FPS)

    def write_two(name: str, seeds: list[int], changed: list[int]) -> tuple:
        drawn = [
            np.concatenate(
                [figure(t, seed=s, centre=c, scale=0.6) for t, s in ((times[:85], one), (times[85:], other))]
            )
            for one, other, c in zip(seeds, changed, (0.25, 0.75), strict=True)
        ]
        frames, mask = film(drawn, colours=[(220, 40, 40), (40, 200, 40)])
        return write(tmp_path / f"{name}.mkv", frames), write(tmp_path / f"{name}_mask.mkv", mask), mask

    target, target_mask, _ = write_two("target", [0, 3], [0, 3])
    driving, _, painted = write_two("driving", [0, 3], [3, 0])
    # A matte says that there are two, and not who is who: that is found by how they move.
    white = np.repeat(255 * painted.any(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    files = {"target": target, "target_mask": target_mask, "driving": driving, "characters": 2}
    entry = added(tmp_path / "out", files | {"driving_mask": write(tmp_path / "matte.mkv", white)})[
        "driving-target"
    ].entry
    assert entry.facts["order"] == [0, 1]
    pairs = pairs_in(tmp_path / "out")
    assert list(pairs) == [f"driving-target-{start:06d}" for start in (0, 17, 34, 51, 68)]
    assert min(pair.meta["measures"]["target"]["agreement"] for pair in pairs.values()) > 0.95
    assert [(each["reason"], each["start"]) for each in entry.discarded] == [(Reason.MISALIGNED, 5.312)]


# ---- the folder -------------------------------------------------------------------------------------------------------


def test_sources_are_added_kept_and_made_anew(tmp_path):
    first, second = make_pair(tmp_path / "1"), make_pair(tmp_path / "2", seed=4)
    added(tmp_path / "out", first | {"name": "one"})
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("one*")}
    again = added(tmp_path / "out", first | {"name": "one"}, second | {"name": "two"})
    assert (again["one"].kept, again["two"].kept) == (True, False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("one*")} == whole
    assert list(read_ledger(tmp_path / "out").sources) == ["one", "two"]
    with pytest.raises(InputError, match="holds one already, made of other files or in another way"):
        added(tmp_path / "out", first | {"name": "one", "caption": "x"})
    added(tmp_path / "out", first | {"name": "one", "caption": "x"}, replace=True)
    assert pairs_in(tmp_path / "out")["one-000000"].real.caption == "x"


@pytest.mark.parametrize("offset", ["0", "1"])
def test_an_offset_is_for_one_source_whichever_it_is(offset, tmp_path, capfd):
    (tmp_path / "list.jsonl").write_text('{"target": "target.mkv"}\n')
    told = refused(capfd, "pairs", "add", tmp_path / "list.jsonl", "--out", tmp_path / "out", "--offset", offset)
    assert "--offset is for one source" in told


def test_what_is_there_is_made_anew_when_asked_though_nothing_changed(tmp_path):
    """A damaged shard, and clips that stayed without a caption while the endpoint was asked in vain."""
    source = make_source(make_pair(tmp_path) | {"name": "one"}, "test")
    said = {"": 0, "somebody dances": 0}

    def caption(words: str, *, replace: bool) -> bool:
        def write(frames: np.ndarray) -> str:
            said[words] += 1
            return words

        adding = Adding(making=MAKING, captioner=write, captioned_by="somebody", replace=replace)
        (outcome,) = add_sources([source], tmp_path / "out", adding)
        return outcome.kept

    shard = tmp_path / "out" / "one.tar"
    assert caption("", replace=False) is False
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    damaged[read_index(shard, DamageReport())[0].members["real.mkv"].offset + 200] ^= 255
    shard.write_bytes(damaged)
    assert caption("", replace=False) is True
    assert caption("", replace=True) is False
    assert shard.read_bytes() == whole
    assert caption("somebody dances", replace=True) is False
    assert {pair.real.caption for pair in pairs_in(tmp_path / "out").values()} == {"somebody dances"}
    assert said[""] == 2 * said["somebody dances"] > 0


def test_lists_and_folders_say_the_same(tmp_path):
    for role, path in make_pair(tmp_path / "made", frames=30).items():
        target = tmp_path / "folder" / role / f"dance{path.suffix}"
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "folder" / "caption").mkdir()
    (tmp_path / "folder" / "caption" / "dance.txt").write_text("somebody dances\n")
    row = {role: f"folder/{role}/dance.mkv" for role in ("driving", "target", "driving_mask", "target_mask")}
    row |= {"name": "dance", "caption": "somebody dances", "licence": "CC-BY-4.0"}
    (tmp_path / "list.csv").write_text("\n".join(",".join(line) for line in (row, row.values())) + "\n")
    (tmp_path / "list.jsonl").write_text(json.dumps(row) + "\n")
    options = ("--size", "64", "--frames", "17", "--poses", "none", "--no-joints", "--licence", "CC-BY-4.0", "--json")
    told = {}
    for given in ("folder", "list.csv", "list.jsonl"):
        out = tmp_path / f"out-{given}"
        told[given] = json.loads(run("pairs", "add", tmp_path / given, "--out", out, *options))["sources"]
        pair = pairs_in(out)["dance-000000"]
        assert pair.real.caption == "somebody dances"
        assert pair.meta["licence"] == "CC-BY-4.0"
        assert pair.meta["consent"] == "unknown"
    assert told["folder"] == told["list.csv"] == told["list.jsonl"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "lists no videos"),
        ('{"driving": "a.mkv"}', "no target video is named"),
        ('{"target": "gone.mkv"}', "there is no target"),
        ('{"target": "target.mkv", "colour": "red"}', "there is no column 'colour'"),
        (
            '{"target": "target.mkv", "name": "ü"}',
            "'ü' is no name, which has letters from A to Z or digits: say one with --name",
        ),
        ('{"target": "target.mkv", "consent": "maybe"}', "consent must be one of"),
        ('{"target": "target.mkv", "offset": 1}', "no driving video"),
        ('{"target": "target.mkv", "driving": "target.mkv"}', "are one file"),
        ('{"target": "target.mkv", "characters": 9}', "a whole number from 1 to 6"),
        ('{"target": "target.mkv", "text": ["target:9,9,3,3"]}', "is empty"),
        ('{"target": "target.mkv"}\n{"target": "target.mkv"}', "two sources are called target"),
        ("{", "is not JSON"),
    ],
)
def test_lists_that_cannot_be_meant(tmp_path, capfd, line, told):
    (tmp_path / "target.mkv").write_bytes(b"x")
    (tmp_path / "list.jsonl").write_text(line)
    assert told in refused(capfd, "pairs", "add", tmp_path / "list.jsonl", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_videos_are_one_sentence_alone_and_a_reason_in_a_list(tmp_path, capfd):
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(200))
    told = refused(capfd, "pairs", "add", tmp_path / "broken.mp4", "--out", tmp_path / "out")
    assert "broken.mp4" in told
    assert not (tmp_path / "out").exists()
    assert discarded(tmp_path / "list", {"target": tmp_path / "broken.mp4"})[0] == Reason.UNREADABLE
    with pytest.raises(InputError, match="none of the 2 sources gave a clip"):
        added(tmp_path / "two", *({"target": tmp_path / "broken.mp4", "name": name} for name in "ab"))
    told = refused(capfd, "pairs", "add", tmp_path / "broken.mp4", "--out", tmp_path / "out", "--frames", "16")
    assert "4n + 1" in told


def test_captions_are_written_by_an_endpoint(tmp_path, capfd):
    files = make_pair(tmp_path)
    words = " ".join(["somebody sways"] * 20)
    endpoint = tmp_path / "eyes.toml"
    options = ("--driving-mask", files["driving_mask"], "--target-mask", files["target_mask"], "--endpoint", endpoint)
    options += ("--size", "64", "--frames", "17", "--poses", "none", "--no-joints", "--out", tmp_path / "out")
    with scripted_endpoint(Turn({"caption": words}), Turn(refusal="no")) as server:
        endpoint.write_text(f'address = "{server.address}"\nmodel = "eyes"\nattempts = 1\nretries = 0\n')
        done = CliRunner().invoke(
            build_app(), ["pairs", "add", *map(str, (files["driving"], files["target"], *options))]
        )
        assert done.exit_code == 0, done.output
        assert "warning: a clip stays without a caption" in done.stderr
        # Asked about the target, at four moments.
        assert [round(float(p[:4, :4].mean() / 2)) for p in server.asked[0].pictures] == [0, 5, 11, 16]
    pairs = pairs_in(tmp_path / "out")
    assert [pair.real.caption for pair in pairs.values()] == [words, ""]
    options += ("--replace", "--frames", "21")
    told = refused(capfd, "pairs", "add", files["driving"], files["target"], *options)
    assert server.address in told
    assert [pair.real.caption for pair in pairs_in(tmp_path / "out").values()] == [words, ""]


# ---- text -----------------------------------------------------------------------------------------------------------


def test_text_is_excluded_where_and_when_it_is(tmp_path):
    info = probe(write(tmp_path / "wide.mkv", np.zeros((5, 100, 200, 3), np.uint8)))
    region = TextRegion.parse("target:60,20,100,40@0.0625-0.1875")
    found = excluded_pixels((region,), info, (50, 50), range(0, 5), FPS)
    # Half the size, the middle 50 columns of 100: x from (60 - 100) / 2 + 25 = 5 to 25, y from 10 to 20, frames 1 and 2.
    wanted = np.zeros((5, 50, 50), bool)
    wanted[1:3, 10:20, 5:25] = True
    assert np.array_equal(found, wanted)
    white = np.zeros((5, 100, 200, 3), np.uint8)
    white[3:, 20:40, 60:100] = 255
    outside = TextRegion.parse("target:900,900,990,990")
    with pytest.raises(InputError, match=r"lies outside .*: boxes are in pixels of that file"):
        excluded_pixels((outside,), info, (50, 50), range(0, 5), FPS)
    mask = TextRegion.parse(f"target:{write(tmp_path / 'text.mkv', white)}")
    by_mask = excluded_pixels((mask,), info, (50, 50), range(1, 5), FPS)
    assert np.array_equal(by_mask[2], wanted[1])
    assert not by_mask[:2].any()


# ---- from pairs to samples --------------------------------------------------------------------------------------------


def test_the_cache_takes_shares_from_what_is_there(tmp_path, capfd):
    files = make_pair(tmp_path)
    single = {role: path for role, path in files.items() if role.startswith("target")} | {"name": "alone"}
    text = {"text": ["target:0,0,16,8"]}
    added(tmp_path / "pairs", files | text, single)
    shares = PairShards((tmp_path / "pairs",)).shares(triplet_settings("nano").shares)
    assert shares == {SampleKind.ANIMATION_SINGLE: 0.5, SampleKind.SELF_DRIVEN: 0.5}
    told = run(
        "cache", "--source", tmp_path / "pairs", "--out", tmp_path / "latents", "--samples", "24", "--workers", "1"
    )
    assert "shares of what is there: animation_single 50%, self_driven 50%" in told
    data = LatentDataset(tmp_path / "latents")
    assert set(data.kinds) == {SampleKind.ANIMATION_SINGLE, SampleKind.SELF_DRIVEN}
    samples = [data[int(index)] for index in data.indices_of("animation_single")]
    # Of a pair's two directions the target's text is only in one.
    marked = [sample for sample in samples if sample.excluded is not None]
    assert 0 < len(marked) < len(samples)
    for each in marked:
        assert (each.excluded[:, :, 0, :2] == 64).all()
        assert int(each.excluded.sum()) == 64 * each.excluded[:, :, 0, :2].numel()
    own = data[int(data.indices_of("self_driven")[0])]
    assert own.meta["source"] == "alone"
    assert np.array_equal(own.target, own.driving)


def test_a_self_driven_share_takes_what_was_cached_as_such(tmp_path, caplog):
    files = make_pair(tmp_path)
    single = {role: path for role, path in files.items() if role.startswith("target")} | {"name": "alone"}
    added(tmp_path / "pairs", files, single)
    run("cache", "--source", tmp_path / "pairs", "--out", tmp_path / "latents", "--samples", "12", "--workers", "1")
    data = LatentDataset(tmp_path / "latents")

    def kinds(**shares: float) -> set[str]:
        config = DataConfig(shards="", batch_size=4, mixture=(MixtureKnot(samples=0, shares=tuple(shares.items())),))
        batches = LatentBatches(data, config, seed=0)
        return {kind for step in range(3) for kind in batches.read(step).latents.kinds}

    assert kinds(self_driven=1.0) == {"self_driven"}
    assert "no share of animation_single" in caplog.text
    assert kinds(self_driven=0.5, animation_single=0.5) == {"self_driven", "animation_single"}


def test_a_cache_of_nothing_is_an_error_and_leaves_nothing(tmp_path, capfd):
    added(tmp_path / "pairs", make_pair(tmp_path))
    shard = find_shards(tmp_path / "pairs")[0]
    payload = bytearray(shard.read_bytes())
    for record in read_index(shard, DamageReport()):
        payload[record.members["real.mkv"].offset + 200] ^= 255
    shard.write_bytes(payload)
    told = refused(capfd, "cache", "--source", tmp_path / "pairs", "--out", tmp_path / "latents", "--workers", "1")
    assert "Not one of 4 samples could be made" in told
    assert "checksum" in told
    assert not (tmp_path / "latents").exists()
