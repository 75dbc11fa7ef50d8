"""Measures against values worked out by hand, and against distortions whose order is known."""

import numpy as np
import pytest
import torch

from scail2.data.puppet_source import PuppetSource
from scail2.evaluation import metrics
from scail2.evaluation.clips import EvaluationTask, evaluation_clips
from scail2.evaluation.limbs import limb_iou
from scail2.evaluation.measures import LIMB_PARTS, copy_driving, copy_reference, measure_clip
from scail2.evaluation.networks import frechet_distance

NOISE = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clips():
    source = PuppetSource(split="test", frames=9, height=96, width=96)
    return {task: list(evaluation_clips(task, source, 1)) for task in EvaluationTask}


def test_psnr():
    truth = np.full((2, 4, 4, 3), 100, np.uint8)
    output = truth.copy()
    output[0] += 10  # mean squared error 50
    assert metrics.psnr(output, truth) == pytest.approx(10 * np.log10(255**2 / 50))
    region = np.zeros((2, 4, 4), bool)
    region[0] = True
    assert metrics.psnr(output, truth, region) == pytest.approx(10 * np.log10(255**2 / 100))
    assert metrics.psnr(output, truth, ~region) == metrics.PSNR_CEILING
    assert np.isnan(metrics.psnr(output, truth, np.zeros((2, 4, 4), bool)))


def test_ssim_of_one_window_by_its_definition():
    x, y = NOISE[:1], NOISE[1:2]
    a, b = x[0, 8:15, 10:17].reshape(-1, 3).astype(float), y[0, 8:15, 10:17].reshape(-1, 3).astype(float)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = a.mean(0), b.mean(0)
    covariance = ((a - mean_a) * (b - mean_b)).sum(0) / 48
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value /= (mean_a**2 + mean_b**2 + c1) * (a.var(0, ddof=1) + b.var(0, ddof=1) + c2)
    assert metrics.ssim_map(x, y)[0, 11, 13] == pytest.approx(value.mean(), abs=1e-4)
    assert metrics.ssim(x, x) == pytest.approx(1, abs=1e-5)


def test_frame_difference_correlation():
    still = np.repeat(NOISE[:1], 9, axis=0)
    assert metrics.frame_difference_correlation(NOISE, NOISE) == pytest.approx(1)
    assert metrics.frame_difference_correlation(255 - NOISE, NOISE) == pytest.approx(-1)
    assert metrics.frame_difference_correlation(still, NOISE) == 0
    assert np.isnan(metrics.frame_difference_correlation(NOISE, still))
    shifted = NOISE // 2 + 100  # neither brightness nor contrast counts
    assert metrics.frame_difference_correlation(shifted, NOISE) == pytest.approx(1, abs=1e-3)


def test_temporal_smoothness_and_seams():
    t = np.arange(12)[:, None, None, None]
    smooth = np.broadcast_to(40 + t * t, (12, 4, 4, 3)).astype(np.uint8)
    assert metrics.temporal_smoothness(smooth, smooth) == 1
    flicker = (smooth.astype(int) + 20 * (t % 2)).astype(np.uint8)
    assert metrics.temporal_smoothness(flicker, smooth) > 5
    ramp = np.broadcast_to(10 * t, (12, 4, 4, 3)).astype(np.uint8)
    assert metrics.seam_energy(ramp, [5, 8]) == pytest.approx(1)
    jump = ramp.copy()
    jump[5:] += 30
    assert metrics.seam_energy(jump, [5]) == pytest.approx(4)
    assert np.isnan(metrics.seam_energy(ramp, []))


def test_identity_similarity_sees_colours_not_places():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4], picture[4:] = (200, 30, 30), (30, 30, 200)
    everywhere = np.ones((8, 8), bool)
    turned, other = np.flip(picture, 0)[None], np.full((1, 8, 8, 3), (30, 200, 30), np.uint8)
    assert metrics.identity_similarity(turned, everywhere[None], picture, everywhere) == pytest.approx(1)
    assert metrics.identity_similarity(other, everywhere[None], picture, everywhere) < 0.1
    assert np.isnan(metrics.identity_similarity(other, ~everywhere[None], picture, everywhere))


class TestLimbs:
    """A drawn cross: limb (2) green, torso (1) red, on a grey plate."""

    def scene(self):
        plate = np.full((1, 20, 20, 3), 128, np.uint8)
        truth, parts = plate.copy(), np.zeros((1, 20, 20), np.uint8)
        truth[0, 5:15, 8:12], parts[0, 5:15, 8:12] = (220, 20, 20), 1
        truth[0, 8:12, 12:18], parts[0, 8:12, 12:18] = (20, 220, 20), 2
        return truth, parts, plate

    def test_by_hand(self):
        truth, parts, plate = self.scene()
        assert limb_iou(truth, truth, parts, plate, {2}) == 1
        assert limb_iou(plate, truth, parts, plate, {2}) == 0
        raised = plate.copy()
        raised[0, 5:15, 8:12] = (220, 20, 20)
        raised[0, 6:10, 12:18] = (20, 220, 20)  # half of the arm overlaps: 12 of 36 pixels
        assert limb_iou(raised, truth, parts, plate, {2}) == pytest.approx(12 / 36)

    def test_undecidable_pixels_are_left_out(self):
        truth, parts, plate = self.scene()
        plate[0, :, 16:] = truth[0, :, 16:] = (20, 220, 20)  # grass as green as the arm
        assert limb_iou(truth, truth, parts, plate, {2}) == 1
        truth[0, 5:15, 8:12] = (25, 215, 25)  # a shirt as green as the sleeve
        assert limb_iou(truth, truth, parts, plate, {2}) == 1
        assert np.isnan(limb_iou(truth, truth, np.zeros_like(parts), plate, {2}))

    def test_rendered_characters(self, clips):
        for rows in clips.values():
            for clip in rows:
                parts, truth = clip.triplet.target_parts, clip.truth
                shifted = np.roll(truth, 6, axis=2)
                same, moved, unrelated = (
                    limb_iou(output, truth, parts, clip.plate, LIMB_PARTS)
                    for output in (truth, shifted, copy_reference(clip))
                )
                assert same > 0.8
                assert moved < 0.6 * same
                assert unrelated < 0.7 * same


def test_the_plate_is_the_targets_background(clips):
    for rows in clips.values():
        for clip in rows:
            away = ~clip.triplet.region
            distance = np.abs(clip.truth.astype(int) - clip.plate)[away]
            assert (distance > 8).mean() < 0.06  # antialiased outlines of the characters


def test_references_show_another_pose_and_evaluation_repeats_itself(clips):
    source = PuppetSource(split="test", frames=9, height=96, width=96)
    for task, rows in clips.items():
        again = next(iter(evaluation_clips(task, source, 1)))
        np.testing.assert_array_equal(again.truth, rows[0].truth)
        np.testing.assert_array_equal(again.triplet.reference, rows[0].triplet.reference)
        for clip in rows:
            overlap = clip.triplet.region & clip.reference_region
            union = (clip.triplet.region | clip.reference_region).sum(axis=(1, 2))
            assert (overlap.sum(axis=(1, 2)) / union).max() < 0.95


def test_splits_and_salts_show_different_puppets(clips):
    truth = clips[EvaluationTask.ANIMATION_SINGLE][0].truth
    for change in ({"split": "holdout"}, {"split": "test", "salt": "x"}, {"split": "train"}):
        source = PuppetSource(frames=9, height=96, width=96, **change)
        other = next(iter(evaluation_clips("animation_single", source, 1))).truth
        assert metrics.psnr(other, truth) < 25


def test_baselines_rank_below_the_truth(clips):
    for rows in clips.values():
        for clip in rows:
            best, reference, driving = (
                measure_clip(output, clip) for output in (clip.truth, copy_reference(clip), copy_driving(clip))
            )
            for name in ("character_psnr", "character_ssim", "background_psnr", "limb_iou"):
                assert best[name] > max(reference[name], driving[name]), name
            assert reference["frame_difference_correlation"] == 0
            assert driving["frame_difference_correlation"] < 0.8


def test_frechet_distance_of_shifted_gaussians():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(400, 3))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(points, points + np.array([3, 0, 0])) == pytest.approx(9)
    assert frechet_distance(points, 2 * points) == pytest.approx(np.trace(np.cov(points.T)), abs=0.1)


def test_networks_are_torchscript_files_of_the_user(tmp_path):
    from scail2.errors import InputError
    from scail2.evaluation.networks import GivenNetworks

    class Distance(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).abs().mean(dim=[1, 2, 3])

    class Features(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=[3, 4]).flatten(1)

    torch.jit.script(Distance()).save(tmp_path / "lpips.pt")
    torch.jit.script(Features()).save(tmp_path / "features.pt")
    networks = GivenNetworks.load(tmp_path / "lpips.pt", tmp_path / "features.pt")
    black, white = np.zeros((5, 8, 8, 3), np.uint8), np.full((5, 8, 8, 3), 255, np.uint8)
    assert networks.per_clip(black, white)["lpips"] == pytest.approx(2)
    alike = [networks.features(each, each) for each in (black, white)]
    assert networks.per_set(alike)["fvd"] == pytest.approx(0, abs=1e-3)
    assert networks.per_set([networks.features(black, white)] * 2)["fvd"] > 1
    assert networks.per_set(alike[:1]) == {}
    assert GivenNetworks.load() is None
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(InputError, match="TorchScript"):
        GivenNetworks.load(tmp_path / "text.pt")
