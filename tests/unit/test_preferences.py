"""Preference pairs: of puppets exactly, from own videos, in files, and which of them are refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from tiny import patch_vae

from scail2 import puppets
from scail2.cli.app import main
from scail2.conditions import encode_video, to_pixels
from scail2.data.cache import write_cache
from scail2.data.dataset import LatentDataset
from scail2.data.media import encode_video as as_file
from scail2.data.own_preferences import OwnPreferences
from scail2.data.preference_cache import PreferenceCacheWork, preference_triplet
from scail2.data.preferences import (
    PreferencePair,
    PreferenceShards,
    Strictness,
    box_pixels,
    preference_members,
    read_preference,
)
from scail2.data.puppet_preferences import PuppetPreferences
from scail2.data.puppet_source import PuppetSource
from scail2.data.shards import DamagedSample, DamageReport, ShardWriter, read_index
from scail2.data.sources import PairShards
from scail2.data.synthesis import PreferenceWork, write_pairs
from scail2.data.triplet_settings import triplet_settings
from scail2.errors import InputError
from scail2.masks import BindingSlot, paint_mask, split_mask
from scail2.puppets.pose_error import MILD, STRONG

WORLD = PuppetSource(frames=5, height=96, width=96)
SOURCE = PuppetPreferences(puppets=WORLD)


@pytest.fixture(scope="module")
def pair() -> PreferencePair:
    return SOURCE.preference(0, np.random.default_rng(0))


def performed(index: int, side: int, errors, start: float) -> puppets.PuppetClip:
    """A clip of one side's cast, distorted by (error, which estimate) one after the other, written out once more."""
    (cast,) = WORLD.performances(index, side, 1)
    for error, estimate in errors:
        cast = dataclasses.replace(cast, motion=puppets.DistortedMotion(cast.motion, error, 3 * 16 * index + estimate))
    size = {"frames": 5, "height": 96, "width": 96}
    return puppets.render([cast], WORLD.scene(index, side), start=start, camera=WORLD.camera(index), **size)


@pytest.mark.parametrize("index", [0, 3])
def test_the_three_videos_are_what_the_construction_says(index):
    pair = SOURCE.preference(index, np.random.default_rng(index))
    start = pair.meta["start"]
    driving = performed(index, 0, [(MILD, 0)], start)
    preferred = performed(index, 1, [(MILD, 0)], start)
    rejected = performed(index, 1, [(STRONG, 1), (STRONG, 2)], start)
    np.testing.assert_array_equal(pair.driving, driving.frames)
    np.testing.assert_array_equal(pair.preferred, preferred.frames)
    np.testing.assert_array_equal(pair.rejected, rejected.frames)
    np.testing.assert_array_equal(pair.reference.frame, pair.preferred[pair.meta["frame"]])
    np.testing.assert_array_equal(pair.preferred_boxes["hands"], preferred.hand_boxes[0].transpose(1, 0, 2))
    head = preferred.parts[2] == 1 + puppets.PART_NAMES.index("head")
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_array_equal(pair.preferred_boxes["faces"][0, 2], box)
    assert pair.preferred_boxes["feet"].shape == (2, 5, 4)
    assert pair.meta["preferred_error"] < 0.5 * pair.meta["rejected_error"]


def test_the_reference_may_show_another_pose(pair):
    posed = dataclasses.replace(SOURCE, still=True).preference(0, np.random.default_rng(0))
    np.testing.assert_array_equal(posed.preferred, pair.preferred)
    assert all((posed.reference.frame != frame).any() for frame in posed.preferred)
    assert posed.meta["frame"] is None
    assert SOURCE.describe() != dataclasses.replace(SOURCE, still=True).describe()


def test_masks_come_from_driving_video_and_reference_alone(pair):
    moved = dataclasses.replace(pair, preferred_tracks=np.roll(pair.preferred_tracks, 7, axis=-1))
    one, other = (preference_triplet(p, triplet_settings("nano"), np.random.default_rng(1)) for p in (pair, moved))
    np.testing.assert_array_equal(one.driving_mask, other.driving_mask)
    np.testing.assert_array_equal(one.reference_mask, other.reference_mask)
    np.testing.assert_array_equal(
        split_mask(one.driving_mask)[BindingSlot[one.slots[0].upper()]], pair.driving_tracks[0]
    )
    assert (one.region != other.region).any()
    np.testing.assert_array_equal(one.target, pair.preferred)
    np.testing.assert_array_equal(one.reference, pair.reference.frame)


def test_files_give_the_pair_back(pair, tmp_path):
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("0", *preference_members(pair))
    record = read_index(tmp_path / "a.tar", DamageReport())[0]
    read = read_preference(record)
    for name in ("driving", "driving_tracks", "preferred", "rejected", "preferred_tracks"):
        np.testing.assert_array_equal(getattr(read, name), getattr(pair, name))
    np.testing.assert_array_equal(read.reference.frame, pair.reference.frame)
    np.testing.assert_array_equal(read.reference.tracks, pair.reference.tracks)
    for region, boxes in pair.rejected_boxes.items():
        np.testing.assert_allclose(read.rejected_boxes[region], boxes, atol=0.006)
    assert (read.mode, read.meta) == (pair.mode, pair.meta)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[record.members["rejected.mkv"].offset + 400] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DamagedSample, match=r"rejected\.mkv does not match its checksum"):
        read_preference(record)


@pytest.mark.parametrize(
    "wrong", [{"boxes": 3}, {"boxes": {"preferred": []}}, {"characters": 99}, {"preference": "dance"}]
)
def test_records_that_are_no_pairs_are_named_and_left_out(pair, tmp_path, wrong):
    meta, members = preference_members(pair)
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("0", meta, members)
        writer.write("1", meta | wrong, members)
    stored = PreferenceShards([tmp_path])
    assert len(stored) == 1
    assert stored.damage.lines() == ["sample a.tar/1: not a preference pair"]
    assert stored.regions == ("hands", "faces", "feet")


def test_boxes_touch_the_pixels_that_they_touch():
    boxes = np.zeros((2, 2, 4), np.float32)
    boxes[0, 0] = (1.5, 2.0, 3.0, 3.2)
    boxes[1, 0] = (-4.0, 7.0, 1.0, 99.0)
    boxes[1, 1] = (5.0, 5.0, 5.0, 9.0)  # empty
    touched = box_pixels(boxes, (8, 10))
    expected = np.zeros((2, 8, 10), bool)
    expected[0, 2:4, 1:3] = True
    expected[0, 7:, :1] = True
    np.testing.assert_array_equal(touched, expected)


class TestStrictness:
    def test_a_good_pair_passes(self, pair):
        assert Strictness().refusal(pair) is None

    def test_hidden_and_tiny_hands_are_refused(self, pair):
        boxes = {name: each.copy() for name, each in pair.preferred_boxes.items()}
        boxes["hands"][:, :2] = 0  # 2 of 5 frames
        hidden = dataclasses.replace(pair, preferred_boxes=boxes)
        assert "hands are seen in 60%" in Strictness().refusal(hidden)
        assert Strictness(hands_seen=0.6).refusal(hidden) is None
        assert "hands are seen in 0%" in Strictness(smallest_hand=0.5).refusal(pair)

    def test_wrong_winners_and_equal_losers_are_refused(self, pair):
        wrong = dataclasses.replace(pair, meta=pair.meta | {"preferred_error": 0.61, "rejected_error": 2.0})
        assert "0.61 hand sizes off the motion, 0.50 are allowed" in Strictness().refusal(wrong)
        as_good = dataclasses.replace(pair, meta=pair.meta | {"preferred_error": 0.4, "rejected_error": 0.4})
        assert "as good as the preferred" in Strictness().refusal(as_good)
        same = dataclasses.replace(pair, rejected=pair.preferred)
        assert "differ by 0.0 of 255" in Strictness().refusal(same)

    def test_refused_pairs_are_named_and_left_out(self, tmp_path):
        job = PreferenceWork(source=SOURCE, pairs=4, limits=Strictness(largest_error=0.09), pairs_per_shard=2)
        errors = [SOURCE.preference(n, np.random.default_rng([0, n])).meta["preferred_error"] for n in range(4)]
        refused = [f"{n:07d}" for n, error in enumerate(errors) if error > 0.09]
        assert 0 < len(refused) < 4
        summary = write_pairs(job, tmp_path)
        assert list(summary.skipped) == refused
        assert summary.written == len(PreferenceShards([tmp_path])) == 4 - len(refused)
        with pytest.raises(InputError, match="another limits"):
            write_pairs(dataclasses.replace(job, limits=Strictness()), tmp_path, resume=True)


def test_cached_pairs_hold_both_videos_and_the_touched_cells(pair, tmp_path):
    patch_vae().save_pretrained(tmp_path / "vae")
    write_pairs(PreferenceWork(source=SOURCE, pairs=3), tmp_path / "pairs")
    stored = PreferenceShards([tmp_path / "pairs"])
    job = PreferenceCacheWork(
        pairs=stored, triplets=triplet_settings("nano"), autoencoder=tmp_path / "vae", samples=5, driving_downsample=1
    )
    write_cache(job, tmp_path / "latents")
    data = LatentDataset(tmp_path / "latents")
    assert len(data) == 5
    sample, first = data[0], stored.pair(0)
    for name, video in (("target", first.preferred), ("rejected", first.rejected), ("driving", first.driving)):
        assert torch.equal(getattr(sample, name), encode_video(patch_vae(), to_pixels(video))[0].half()), name
    assert sample.region_names == ("hands", "faces", "feet")
    hands = first.region("hands")
    touched = hands.reshape(5, 12, 8, 12, 8).any(axis=(2, 4))
    expected = np.stack([touched[0], touched[1:].any(axis=0)])
    np.testing.assert_array_equal(sample.regions[0].numpy(), expected)
    # Samples beyond the pairs show them again, with slots of their own.
    assert torch.equal(data[3].target, sample.target)
    assert len({data[n].slots for n in range(5)}) > 1
    made = json.loads((tmp_path / "latents" / "cache.json").read_text())["source"]["made"]
    assert made[0]["limits"]["largest_error"] == 0.5
    assert data[0].meta["preferred_error"] == first.meta["preferred_error"]
    with pytest.raises(InputError, match="no pose renders"):
        preference_triplet(first, triplet_settings("nano+pose_driving"), np.random.default_rng(0))


def test_replaced_pairs_describe_themselves_otherwise(tmp_path):
    told = []
    for salt in ("", "", "another world"):
        shutil.rmtree(tmp_path / "pairs", ignore_errors=True)
        source = dataclasses.replace(SOURCE, puppets=dataclasses.replace(WORLD, salt=salt))
        write_pairs(PreferenceWork(source=source, pairs=1), tmp_path / "pairs")
        (tmp_path / "pairs" / "preferences.json").unlink()  # as in a folder of shards alone
        told.append(PreferenceShards([tmp_path / "pairs"]).describe())
    assert told[0] == told[1]
    assert [name for name in told[0] if told[0][name] != told[2][name]] == ["digest"]


def test_pairs_of_the_wrong_sort_are_told_apart(tmp_path):
    write_pairs(PreferenceWork(source=SOURCE, pairs=1), tmp_path / "pairs")
    with pytest.raises(InputError, match="names no construction"):
        PairShards((tmp_path / "pairs",)).pair("animation_single", 0, np.random.default_rng(0))
    with pytest.raises(InputError, match="choose one of mild, strong"):
        PuppetPreferences(puppets=WORLD, weaker="none")


# ---- own videos -----------------------------------------------------------------------------------------------------


def own_files(folder, pair: PreferencePair, name: str) -> None:
    """A pair as somebody's files: three videos, palette masks, boxes."""
    slots = [BindingSlot.RED]
    content = {
        "driving": as_file(pair.driving),
        "preferred": as_file(pair.preferred),
        "rejected": as_file(pair.rejected),
        "driving_mask": as_file(paint_mask(pair.driving_tracks, slots, "black")),
        "reference_mask": as_file(paint_mask(pair.reference.tracks[:, None], slots, "white")),
    }
    for role, payload in content.items():
        (folder / role).mkdir(exist_ok=True)
        (folder / role / f"{name}.mkv").write_bytes(payload)
    (folder / "boxes").mkdir(exist_ok=True)
    sides = {"preferred": pair.preferred_boxes, "rejected": pair.rejected_boxes}
    boxes = {side: {"hands": each["hands"].tolist()} for side, each in sides.items()}
    (folder / "boxes" / f"{name}.json").write_text(json.dumps(boxes))


def roles(folder, *others: str):
    named = {"driving": "driving", "driving mask": "driving_mask", "preferred": "preferred", "rejected": "rejected",
             "reference mask": "reference_mask", "boxes": "boxes"}  # fmt: skip
    return {role: folder / place for role, place in named.items() if role not in others}


@pytest.fixture
def own(tmp_path, pair):
    first = dataclasses.replace(
        pair, reference=dataclasses.replace(pair.reference, tracks=pair.preferred_tracks[:, 0], frame=pair.preferred[0])
    )
    folder = tmp_path / "own"
    folder.mkdir()
    own_files(folder, first, "dance")
    return folder


def test_own_videos_become_pairs(own, pair):
    source = OwnPreferences.find(roles(own), frames=81)
    assert len(source) == 1
    made = source.preference(0, np.random.default_rng(0))
    for name in ("driving", "driving_tracks", "preferred", "rejected"):
        np.testing.assert_array_equal(getattr(made, name), getattr(pair, name))
    np.testing.assert_array_equal(made.reference.frame, pair.preferred[0])
    np.testing.assert_array_equal(made.reference.tracks, pair.preferred_tracks[:, 0])
    np.testing.assert_allclose(made.preferred_boxes["hands"], pair.preferred_boxes["hands"], atol=1e-3)
    assert made.preferred_tracks is None
    triplet = preference_triplet(made, triplet_settings("nano"), np.random.default_rng(0))
    assert not triplet.region.any()


def test_own_videos_are_brought_to_one_size_with_their_masks_and_boxes(own, pair):
    source = OwnPreferences.find(roles(own), frames=1, size=(64, 32))
    made = source.preference(0, np.random.default_rng(0))
    assert made.preferred.shape == (1, 64, 32, 3)
    # Covered and cropped: 96 become 64 high, and of 64 columns the middle 32 stay.
    expected = pair.preferred_boxes["hands"][:, :1] * (64 / 96) - [16, 0, 16, 0]
    np.testing.assert_allclose(made.preferred_boxes["hands"], expected, atol=1e-3)
    middle = pair.driving_tracks[0, 0][:, 24:72]
    assert made.driving_tracks[0, 0].mean() == pytest.approx(middle.mean(), abs=0.02)


def test_files_that_do_not_fit_are_refused_in_words(own, pair, tmp_path):
    with pytest.raises(InputError, match="missing: rejected, reference mask"):
        OwnPreferences.find(roles(own, "rejected", "reference mask"))
    (own / "preferred" / "jump.mkv").write_bytes(as_file(pair.preferred))
    with pytest.raises(InputError, match="holds no driving for jump"):
        OwnPreferences.find(roles(own))
    (own / "preferred" / "jump.mkv").unlink()
    for count, told in ((1, "holds a file"), (2, "holds 2 files")):
        (own / "rejected" / f"extra{count}.mkv").write_bytes(b"x")
        told = rf"\(rejected\) {told} without a preferred video of that name in .*preferred, such as extra1\.mkv"
        with pytest.raises(InputError, match=told):
            OwnPreferences.find(roles(own))
    for count in (1, 2):
        (own / "rejected" / f"extra{count}.mkv").unlink()
    (own / "rejected" / "dance.mkv").write_bytes(as_file(pair.rejected[:3]))
    with pytest.raises(InputError, match=r"dance differ in length .*preferred 5, rejected 3"):
        OwnPreferences.find(roles(own)).preference(0, np.random.default_rng(0))
    (own / "rejected" / "dance.mkv").write_bytes(as_file(pair.rejected))
    for settings, told in (
        ({"frames": 4}, "4k\\+1 frames, not 4: take 5"),
        ({"frames": 16}, "not 16: take 17"),
        ({"size": (50, 64)}, r"multiples of 16, not 50x64 \(height x width\): take 48x64"),
    ):
        with pytest.raises(InputError, match=told):
            OwnPreferences.find(roles(own), **settings)
    with pytest.raises(InputError, match="reference mask of dance has a white background, but replacement needs black"):
        OwnPreferences.find(roles(own), mode="replacement").preference(0, np.random.default_rng(0))
    green = paint_mask(pair.reference.tracks[:, None], [BindingSlot.GREEN], "white")
    (own / "reference_mask" / "dance.mkv").write_bytes(as_file(green))
    with pytest.raises(InputError, match="do not show the same characters: red, green"):
        OwnPreferences.find(roles(own)).preference(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"preferred": {"hands": []}, "rejected": {"hands": []}}, "must be boxes"),
        ({"preferred": {"tails": [[[0, 0, 1, 1]] * 5]}, "rejected": {}}, "must be boxes"),
        ({"preferred": {"hands": [[[0, 0, 1, 1], [2]]]}, "rejected": {}}, "must be boxes"),
        ({"preferred": {"hands": [[[0, 0, 1, 1]] * 5]}}, "no boxes for the rejected"),
        ({"preferred": {}, "rejected": {}}, "hands among them"),
    ],
)
def test_boxes_that_are_none_are_refused(own, content, said):
    (own / "boxes" / "dance.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        OwnPreferences.find(roles(own)).preference(0, np.random.default_rng(0))


def test_hands_of_people_are_found(tmp_path):
    """Without --boxes the pose network looks; where it finds nobody, the pair is refused and named."""
    pytest.importorskip("ai_edge_litert")
    from scail2.data.own_preferences import found_boxes
    from scail2.perception.segmenters.people.joints import find_joints
    from scail2.video import ArrayFrames, VideoReader

    dancer = ArrayFrames(VideoReader(Path(__file__).parents[1] / "media" / "dance_black.mp4").frames(0, 5))
    boxes = found_boxes(dancer)
    shapes = {name: each.shape for name, each in boxes.items()}
    assert shapes == {"hands": (2, 5, 4), "faces": (1, 5, 4), "feet": (2, 5, 4)}
    joints = find_joints(dancer).places[0]
    for hand, wrist in zip(boxes["hands"], (15, 16), strict=True):
        assert (hand[:, :2] < joints[:, wrist]).all()
        assert (joints[:, wrist] < hand[:, 2:]).all()
    assert (boxes["faces"][0, :, 3] < boxes["feet"][:, :, 1].min(axis=0)).all()  # the face above the feet
    assert found_boxes(ArrayFrames(np.full((5, 64, 64, 3), 90, np.uint8))) == {}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def test_the_command_makes_pairs_of_own_videos(own, tmp_path, capsys):
    folders = [f"--{role.replace(' ', '-')}={place}" for role, place in roles(own).items()]
    assert run("preferences", *folders, "--out", tmp_path / "pairs", "--caption", "a puppet dances") == 0
    assert "1 of 1 pairs written" in capsys.readouterr().out.replace("\n", " ")
    stored = PreferenceShards([tmp_path / "pairs"]).pair(0)
    assert stored.caption == "a puppet dances"
    assert stored.preferred.shape == (5, 96, 96, 3)
    record = read_index(next((tmp_path / "pairs").glob("*.tar")), DamageReport())[0]
    assert "preferred.tracks.mkv" not in record.members
    assert run("preferences", *folders, "--out", tmp_path / "strict", "--least-contrast", 200) == 2
    told = capsys.readouterr().err
    assert "Not one of 1 samples could be made: the videos differ by" in told
    assert not (tmp_path / "strict").exists()


def test_the_whole_chain_as_typed(tmp_path, capsys):
    """Puppets, cache, preference training, adapter: and the adapter animates."""
    from training_material import make_world

    world = make_world(tmp_path / "world")
    common = ("--frames", 9, "--size", 32, "--workers", 1)
    pairs, latents, trained = (tmp_path / name for name in ("pairs", "latents", "run"))
    assert run("preferences", "--pairs", 4, "--out", pairs, *common, "--least-contrast", 0, "--hands-seen", 0,
               "--largest-error", 9) == 0  # fmt: skip
    assert run("cache", "--source", pairs, "--out", latents, "--workers", 1,
               "--autoencoder", world / "model" / "vae") == 0  # fmt: skip
    assert len(LatentDataset(latents)) == 4
    train = ("train", "nano_dpo", "--data", latents, "--model", world / "model", "--output", trained, "--device", "cpu")
    assert run(*train, "--steps", 2, "--batch-size", 2) == 0
    adapter = trained / "adapter" / "nano_dpo.safetensors"
    assert str(adapter) in capsys.readouterr().out.replace("\n", "")
    names = load(adapter.read_bytes())
    assert len(names) == 2 * 6 * 2  # two blocks without cross-attention: q, k, v, o and the two feed-forward layers
    assert all(name.startswith("diffusion_model.blocks.") for name in names)
    assert sum(float(value.abs().sum()) for name, value in names.items() if "lora_up" in name) > 0
