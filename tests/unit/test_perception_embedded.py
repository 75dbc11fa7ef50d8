"""The embedded segmenter: grouping, confidence, refusal, the shipped weights on unseen puppets, and its training."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from scail2.errors import InputError
from scail2.perception.segmenters.embedded import (
    EmbeddedSegmenter,
    embedded_segmenter_path,
    expected_overlap,
    group_instances,
)
from scail2.perception.segmenters.network import (
    Familiarity,
    NetworkConfig,
    SegmentationNetwork,
    load_network,
    read_facts,
    save_network,
)
from scail2.perception.segmenters.regions import colour_regions, vote
from scail2.puppets import JOINT_NAMES, NANO, Split, render, sample_placements, sample_scene
from scail2.request.masks import PointPrompt, Prompts
from scail2.training.segmenter.data import sample_batch
from scail2.training.segmenter.evaluation import character_ious, evaluate, unseen_clip
from scail2.training.segmenter.train import SegmenterSettings, SegmenterTraining, loss_of
from scail2.video import ArrayFrames, VideoReader

MEDIA = Path(__file__).parents[1] / "media"
TINY = NetworkConfig(widths=(4, 4, 8, 8, 8), short_side=32)


@pytest.fixture(scope="module")
def shipped() -> EmbeddedSegmenter:
    return EmbeddedSegmenter.load()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_unseen_puppets_are_found_and_told_apart(shipped):
    single, pair = unseen_clip(NANO, 0, 1, frames=6), unseen_clip(NANO, 1, 2, frames=6)
    found = shipped.segment(ArrayFrames(single.frames))
    assert overlap(found.labels.labels(0, 6) > 0, single.masks[0]) > 0.85
    found = shipped.segment(ArrayFrames(pair.frames), Prompts(characters=2))
    labels = found.labels.labels(0, 6)
    best = [max(overlap(mask, labels == number) for number in (1, 2)) for mask in pair.masks]
    assert min(best) > 0.7
    assert found.tracks[0].centre_x(0) < found.tracks[1].centre_x(0)


def test_another_size_and_a_folder_on_disk(shipped, tmp_path):
    clip = unseen_clip(NANO, 2, 1, frames=10)
    wide = clip.frames.repeat(2, axis=1).repeat(3, axis=2)
    found = shipped.segment(ArrayFrames(wide), directory=tmp_path)
    assert (found.height, found.width) == (256, 384)
    assert found.labels.labels(9, 10).shape == (1, 256, 384)


def test_real_footage_and_noise_are_refused_with_advice(shipped):
    film = VideoReader(MEDIA / "dance_black.mp4", size=(128, 128)).frames(0, 8)
    with pytest.raises(InputError, match=r"does not trust.*--driving-mask FILE.*--sam3"):
        shipped.segment(ArrayFrames(film))
    noise = np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"reference picture.*--reference-mask FILE"):
        shipped.segment(ArrayFrames(noise))


def test_a_scene_without_anybody_is_refused(shipped):
    empty = render([], sample_scene(Split.TEST, 5, NANO), frames=2, height=128, width=128).frames
    with pytest.raises(InputError, match=r"found no character|does not trust"):
        shipped.segment(ArrayFrames(empty))


def test_prompts_it_cannot_use_are_refused(shipped):
    click = Prompts(points=(PointPrompt(frame=0, character=1, x=5, y=5),))
    with pytest.raises(InputError, match="SAM3"):
        shipped.segment(ArrayFrames(np.zeros((1, 32, 32, 3), np.uint8)), click)


def test_shipped_weights_are_small_and_say_how_they_were_made():
    assert embedded_segmenter_path().stat().st_size < 4 * 2**20
    config, facts = read_facts(embedded_segmenter_path())
    assert config == NetworkConfig()
    assert facts["steps"] > 0


def test_votes_separate_bodies_that_touch():
    probability = np.zeros((64, 64), np.float32)
    probability[10:60, 8:56] = 1
    centre = np.zeros((2, 64, 64), np.float32)
    xs = np.arange(64)
    centre[0] = (np.where(xs < 32, 20, 44) - xs) / 64
    centre[1] = (35 - np.arange(64)[:, None]) / 64
    instances = group_instances(probability, centre, 64)
    assert sorted(np.unique(instances)) == [0, 1, 2]
    assert len(np.unique(instances[10:60, 8:32])) == 1
    assert len(np.unique(instances[10:60, 32:56])) == 1
    assert group_instances(probability * 0, centre, 64).max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_regions_are_numbered_by_their_first_pixels(seed):
    picture = np.random.default_rng(seed).integers(0, 3 + seed, (23, 31, 3), np.uint8) * 20
    regions = colour_regions(picture)
    seen, first = np.unique(regions, return_index=True)
    assert seen.tolist() == list(range(len(seen)))
    assert (np.diff(first) > 0).all()
    for axis in (0, 1):  # neighbours are one region where they are alike; nothing else joins two
        one, other = (np.delete(regions, edge, axis).ravel() for edge in (-1, 0))
        alike = np.abs(np.diff(picture.astype(int), axis=axis)).max(axis=-1).ravel() <= 5
        assert (one[alike] == other[alike]).all()


def test_regions_of_one_colour_decide_together():
    picture = np.full((20, 20, 3), 200, np.uint8)
    picture[5:15, 5:15] = (30, 60, 200)
    picture[5:15, 10:15, 0] += 3  # compression noise
    regions = colour_regions(picture)
    assert len(np.unique(regions)) == 2
    assert len(np.unique(regions[5:15, 5:15])) == 1
    probability = np.where(picture[..., 0] < 100, 0.8, 0.1).astype(np.float32)
    probability[6:9, 6:14] = 0.3
    probability[0, :5] = 0.9
    agreed = vote(probability, regions)
    assert np.array_equal(agreed > 0.5, picture[..., 0] < 100)
    undecided = np.full((20, 20), 0.52, np.float32)
    assert np.array_equal(vote(undecided, regions), undecided)


def test_expected_overlap_is_one_when_sure_and_low_when_not():
    sure = torch.zeros(1, 10, 10)
    sure[:, :5] = 1
    unsure = torch.full((1, 10, 10), 0.45)
    unsure[:, :5] = 0.55
    assert expected_overlap(sure).item() == pytest.approx(1)
    assert expected_overlap(unsure).item() < 0.5


def test_familiarity_falls_with_distance():
    generator = torch.Generator().manual_seed(0)
    usual = torch.randn(400, 12, generator=generator)
    fit = Familiarity.fit(usual, torch.randn(200, 12, generator=generator), components=8)
    assert fit.probability(torch.randn(100, 12, generator=generator)).mean() > 0.9
    assert fit.probability(10 * torch.randn(100, 12, generator=generator)).mean() < 0.1


def test_batches_are_reproducible_and_splits_differ():
    one, same, other = (sample_batch(split, 3, clips=1, size=32) for split in (Split.TRAIN, Split.TRAIN, Split.TEST))
    assert torch.equal(one.pictures, same.pictures)
    assert not torch.equal(one.pictures, other.pictures)
    assert one.pictures.shape == (4, 3, 32, 32)
    assert one.centre.shape == (4, 2, 32, 32)


def test_centres_are_inside_the_body_they_point_to():
    """Following every pixel's offset leads to at most as many places as there are characters, whatever the augmentation."""
    for index in range(12):
        batch = sample_batch(Split.VALIDATION, index, clips=1, size=32, strange=False)
        axis = (torch.arange(32) + 0.5) / 32
        target = batch.centre + torch.stack([axis.expand(32, 32), axis[:, None].expand(32, 32)])
        inside = batch.foreground[0] > 0
        places = torch.unique((target[0][:, inside] * 1000).round(), dim=1)
        assert places.shape[1] <= 3 * 2  # three characters, each on one side of a rounding step at most


def test_characters_drawn_together_touch_and_stay_apart_by_their_centres():
    touching = []
    for index in range(6):
        clip = unseen_clip(NANO, index, 2, frames=3, together=True)
        left, right = clip.masks
        for one, other in zip(left, right, strict=True):
            wider = one.copy()
            wider[:, 2:] |= one[:, :-2]
            wider[:, :-2] |= one[:, 2:]
            touching.append(bool((wider & other).any()))
        distance = np.abs(np.subtract(*clip.joints[:, :, JOINT_NAMES.index("chest"), 0])) / 128
        heights = [each.height for each in sample_placements(Split.TEST, index, NANO, count=2)]
        assert (distance > 0.05 * np.mean(heights)).all()
    assert np.mean(touching) > 0.9


def test_a_batch_of_strangers_alone_teaches_familiarity_only():
    batch = sample_batch(Split.TRAIN, 3, clips=1, size=32)
    batch = dataclasses.replace(batch, known=torch.zeros_like(batch.known))
    loss, parts = loss_of(SegmentationNetwork(TINY), batch, SegmenterSettings())
    assert parts["entropy"] == 0
    assert loss.isfinite()


def test_training_resumes_bit_for_bit(tmp_path):
    settings = SegmenterSettings(steps=4, clips=1, mixed_precision=False)
    whole = SegmenterTraining(tmp_path / "whole", settings, TINY)
    whole.run()
    SegmenterTraining(tmp_path / "parts", settings, TINY).run(stop=2)
    parts = SegmenterTraining(tmp_path / "parts", settings, TINY)
    assert parts.step == 2
    parts.run()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, parts.network.state_dict()[name]), name
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(tensor, parts.average.state_dict()[name]), name


def test_weights_survive_the_file(tmp_path):
    torch.manual_seed(1)
    network = SegmentationNetwork(TINY).eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    fit = Familiarity(torch.zeros(32), torch.ones(32, 4), torch.tensor(3.0))
    path = save_network(tmp_path, network, fit, {"steps": 7})
    loaded, read = load_network(path)
    picture = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(loaded(picture).foreground, network(picture).foreground)
    assert torch.equal(read.whitening, fit.whitening)
    assert read_facts(path)[1] == {"steps": 7}


def test_foreign_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        EmbeddedSegmenter.load(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no segmentation network"):
        EmbeddedSegmenter.load(tmp_path / "x.safetensors")


def test_character_overlaps_are_paired_one_to_one():
    truth = np.zeros((2, 1, 8, 8), bool)
    truth[0, :, :, :4] = truth[1, :, :, 4:] = True
    labels = np.where(truth[1], 1, 2).astype(np.uint8)
    assert character_ious(truth, labels, 2) == [1, 1]
    assert sorted(character_ious(truth, np.where(truth[0], 1, 0).astype(np.uint8), 1)) == [0, 1]


def test_evaluation_tells_puppets_from_other_footage(shipped, tmp_path):
    (tmp_path / "dance.mp4").write_bytes((MEDIA / "dance_black.mp4").read_bytes())
    scores = evaluate(shipped, (NANO,), clips=1, media=tmp_path)
    assert set(scores["puppets"]) == {"nano_1", "nano_2", "nano_2_touching"}
    assert scores["puppets"]["nano_1"]["confidence"] > 2 * max(scores["elsewhere"].values())
