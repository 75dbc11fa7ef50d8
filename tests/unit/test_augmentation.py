"""Driving videos that are augmented: skeletons limb by limb, both versions in the cache, one of them at each visit."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import patch_vae

from scail2 import conditions, puppets
from scail2.data.augment import LARGEST_SCALE, scale_limbs
from scail2.data.cache import CacheWork, write_cache
from scail2.data.dataset import LatentDataset
from scail2.data.pairs import pair_members, read_pair
from scail2.data.puppet_source import PuppetSource
from scail2.data.shards import DamageReport, ShardWriter, read_index
from scail2.data.triplet_encoding import encode_triplet
from scail2.data.triplet_settings import SampleKind, triplet_settings
from scail2.data.triplets import draw_triplet
from scail2.errors import InputError
from scail2.puppets.reshaping import LIMBS
from scail2.puppets.skeleton import JOINT_INDEX
from scail2.training.config import DataConfig
from scail2.training.latent_batches import LatentBatches

SOURCE = PuppetSource(frames=5, height=64, width=64, with_poses=True)


@pytest.fixture(scope="module")
def joints() -> np.ndarray:
    return SOURCE.pair(SampleKind.POSE_SINGLE, 3, np.random.default_rng(0)).real.pose_joints[0]


def bone(joints: np.ndarray, first: str, second: str) -> np.ndarray:
    return joints[:, JOINT_INDEX[second]] - joints[:, JOINT_INDEX[first]]


def test_each_limb_gets_its_own_length_and_keeps_its_direction(joints):
    reshaped = puppets.reshape_skeleton(joints, np.random.default_rng(1), LARGEST_SCALE)
    limbs = {
        "upper arm": ("shoulder", "elbow"), "forearm": ("elbow", "wrist"), "thigh": ("hip", "knee"), "shin": ("knee", "ankle"),
    }  # fmt: skip
    factors = {}
    for limb, (first, second) in limbs.items():
        for side in ("left", "right"):
            before, after = (bone(each, f"{first}_{side}", f"{second}_{side}") for each in (joints, reshaped))
            factor = np.linalg.norm(after) / np.linalg.norm(before)
            np.testing.assert_allclose(after, factor * before, atol=1e-3)  # the same in all frames
            assert factors.setdefault(limb, factor) == pytest.approx(factor, rel=1e-3)  # and on both sides
            assert np.exp(-LARGEST_SCALE) <= factor <= np.exp(LARGEST_SCALE)
    assert len({round(factor, 3) for factor in factors.values()}) == len(limbs)
    feet = [JOINT_INDEX[f"{joint}_{side}"] for joint in ("ankle", "toe") for side in ("left", "right")]
    np.testing.assert_allclose(reshaped[:, feet, 1].max(axis=1), joints[:, feet, 1].max(axis=1), atol=1e-3)
    np.testing.assert_allclose(reshaped[:, JOINT_INDEX["pelvis"], 0], joints[:, JOINT_INDEX["pelvis"], 0])
    assert {"elbow", "wrist", "hand", "knee", "ankle", "trunk", "head"} <= set(LIMBS)


def test_lost_fingers_stay_lost_and_harm_nothing(joints):
    lost = joints.copy()
    finger = [JOINT_INDEX[f"index_{bone}_left"] for bone in ("knuckle", "middle", "tip")]
    lost[:, finger] = np.nan
    whole, reshaped = (puppets.reshape_skeleton(each, np.random.default_rng(1), 0.2) for each in (joints, lost))
    assert np.isnan(reshaped[:, finger]).all()
    others = np.setdiff1d(np.arange(len(JOINT_INDEX)), finger)
    np.testing.assert_array_equal(reshaped[:, others], whole[:, others])
    with pytest.raises(InputError, match="joints have the shape"):
        scale_limbs(joints[None, :, :10], (64, 64), np.random.default_rng(0))


def test_poses_are_drawn_again_whole_and_never_cropped():
    """A skeleton is neither stretched with its picture nor moved off its feet: pelvis column and lowest row stay."""
    pair = SOURCE.pair(SampleKind.POSE_SINGLE, 3, np.random.default_rng(0))
    triplet = draw_triplet(pair, SampleKind.POSE_SINGLE, triplet_settings("paper"), np.random.default_rng(2))
    np.testing.assert_array_equal(triplet.driving, pair.real.pose)
    drawn, lines = (frames.any(axis=-1) for frames in (triplet.augmented.frames, pair.real.pose))
    assert (drawn != lines).any()
    for frame in range(5):
        lowest = [np.flatnonzero(each[frame].any(axis=1))[-1] for each in (drawn, lines)]
        assert abs(lowest[0] - lowest[1]) <= 2  # the line's width follows the body's size
    coloured = (triplet.augmented.mask > 225).any(axis=-1)
    np.testing.assert_array_equal(coloured, drawn)


def test_joints_survive_their_file(tmp_path):
    pair = SOURCE.pair(SampleKind.POSE_SINGLE, 3, np.random.default_rng(0))
    joints = pair.real.pose_joints.copy()
    joints[0, 1, 4] = np.nan
    pair = dataclasses.replace(pair, real=dataclasses.replace(pair.real, pose_joints=joints))
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write("0", *pair_members(pair))
    read = read_pair(read_index(tmp_path / "a.tar", DamageReport())[0])
    np.testing.assert_allclose(read.real.pose_joints, joints, atol=0.006)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmented")
    patch_vae().save_pretrained(folder / "vae")
    shares = {SampleKind.ANIMATION_SINGLE: 0.4, SampleKind.POSE_SINGLE: 0.4, SampleKind.REPLACEMENT_SINGLE: 0.2}
    job = CacheWork(
        source=SOURCE,
        triplets=dataclasses.replace(triplet_settings("paper"), shares=shares),
        autoencoder=folder / "vae",
        samples=12,
        driving_downsample=1,
    )
    write_cache(job, folder / "latents")
    return folder / "latents"


def test_both_driving_videos_are_cached(cached):
    data = LatentDataset(cached)
    assert set(data.kinds) == {SampleKind.ANIMATION_SINGLE, SampleKind.POSE_SINGLE, SampleKind.REPLACEMENT_SINGLE}
    shares = {sample.kind: sample.augmented_share for sample in map(data.__getitem__, range(len(data)))}
    assert shares == {
        SampleKind.ANIMATION_SINGLE: 0.56,
        SampleKind.POSE_SINGLE: 0.75,
        SampleKind.REPLACEMENT_SINGLE: 0.0,
    }
    # Sample 0 made again by hand.
    generator = np.random.default_rng([0, 0])
    chosen = dataclasses.replace(triplet_settings("paper"), shares=dict(zip(shares, (0.4, 0.4, 0.2), strict=True)))
    kind = data[0].kind
    chosen.draw_kind(generator)
    triplet = draw_triplet(SOURCE.pair(kind, 0, generator), kind, chosen, generator)
    as_driven = dataclasses.replace(
        triplet, driving=triplet.augmented.frames, driving_mask=triplet.augmented.mask, augmented=None
    )
    wanted = encode_triplet(patch_vae(), conditions.ConditionGeometry(driving_downsample=1), as_driven)
    again = data[0].augmented()
    assert torch.equal(again.driving, wanted["driving"])
    assert torch.equal(again.driving_mask, wanted["driving_mask"])
    assert not torch.equal(again.driving, data[0].driving)


def test_each_visit_draws_one_of_the_two(cached):
    data = LatentDataset(cached)
    batches = LatentBatches(data, DataConfig(shards=str(cached), batch_size=4), seed=1)
    samples = {record.key: data[index] for index, record in enumerate(data.records)}
    visits: dict[SampleKind, list[bool]] = {}
    for step in range(120):
        latents = batches.read(step).latents
        for place, key in enumerate(latents.keys):
            plain = torch.equal(latents.driving[place], samples[key].driving.float())
            if not plain:
                assert torch.equal(latents.driving[place], samples[key].driving_augmented.float())
                mask = samples[key].driving_mask_augmented.float() / 64
                assert torch.equal(latents.driving_mask[place], mask)
            visits.setdefault(latents.kinds[place], []).append(not plain)
    share = {kind: sum(seen) / len(seen) for kind, seen in visits.items()}
    assert share[SampleKind.ANIMATION_SINGLE] == pytest.approx(0.56, abs=0.1)
    assert share[SampleKind.POSE_SINGLE] == pytest.approx(0.75, abs=0.1)
    assert share[SampleKind.REPLACEMENT_SINGLE] == 0
    assert torch.equal(batches.read(7).latents.driving, batches.read(7).latents.driving)
