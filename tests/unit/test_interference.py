"""Wrong scenes, leaking modes, exchanged people and broken overlaps, measured by value on drawn and on rendered clips."""

import numpy as np
import pytest

from scail2.data.ablations import ABLATION_CATALOGUE, AblationPlan, WorldPlan
from scail2.evaluation.ablations import MEASURES, interference_measures, other_scene
from scail2.evaluation.clips import evaluation_clips
from scail2.evaluation.interference import identity_swaps, overlap_psnr, overlap_region, pull, wrong_share


def flat(value: int, frames: int = 2, size: int = 16) -> np.ndarray:
    return np.full((frames, size, size, 3), value, np.uint8)


EVERYWHERE = np.ones((2, 16, 16), bool)


def test_the_share_of_wrong_pixels_is_counted_where_right_and_wrong_differ():
    right, wrong, output = flat(50), flat(200), flat(50)
    output[:, :, :4] = 190  # a quarter is nearer to the mistake
    assert wrong_share(output, right, wrong, EVERYWHERE) == 0.25
    half = EVERYWHERE.copy()
    half[:, :, 8:] = False
    assert wrong_share(output, right, wrong, half) == 0.5
    wrong[:, :, :4] = 60  # cannot be told from right: does not count
    assert wrong_share(output, right, wrong, EVERYWHERE) == 0.0
    assert np.isnan(wrong_share(output, right, right, EVERYWHERE))


def test_the_pull_is_the_way_gone_from_the_truth_to_the_mistake():
    right, wrong = flat(40), flat(200)
    for shown, way in ((40, 0.0), (200, 1.0), (120, 0.5), (80, 0.25), (0, -0.25)):
        assert pull(flat(shown), right, wrong, EVERYWHERE) == pytest.approx(way)
    noise = right.copy()
    noise[:, ::2], noise[:, 1::2] = 20, 60  # blurred or noisy about the truth is no pull
    assert pull(noise, right, wrong, EVERYWHERE) == pytest.approx(0.0)
    assert np.isnan(pull(right, right, right, EVERYWHERE))


def test_a_swap_is_counted_for_each_character():
    tracks = np.zeros((2, 2, 16, 16), bool)
    tracks[0, :, :, :8], tracks[1, :, :, 8:] = True, True
    right, exchanged = flat(0), flat(0)
    right[..., :8, :], right[..., 8:, :] = 60, 220
    exchanged[..., :8, :], exchanged[..., 8:, :] = 220, 60
    assert identity_swaps(right, right, exchanged, tracks) == 0.0
    assert identity_swaps(exchanged, right, exchanged, tracks) == 1.0
    mixed = right.copy()
    mixed[..., :8, :] = 150  # the left one is nearer to the other
    assert identity_swaps(mixed, right, exchanged, tracks) == 0.5
    assert np.isnan(identity_swaps(right, right, right, tracks))


def test_characters_meet_where_one_is_near_the_other():
    tracks = np.zeros((2, 1, 16, 16), bool)
    tracks[0, :, 4:8, 2:6], tracks[1, :, 4:8, 8:12] = True, True  # two empty columns between them
    assert not overlap_region(tracks, 1).any()
    met = overlap_region(tracks, 3)
    # Of each, the one column within three pixels of the other.
    assert met.sum() == 2 * 4
    assert list(np.flatnonzero(met.any(axis=(0, 1)))) == [5, 8]
    truth, output = flat(100, 1), flat(100, 1)
    assert np.isnan(overlap_psnr(output, truth, tracks))
    tracks[1] = np.roll(tracks[1], -2, axis=-1)  # side by side
    output[0, 4:8, 5] += 10
    # A column of the two that are within a pixel of the other is wrong by 10.
    assert overlap_psnr(output, truth, tracks) == pytest.approx(10 * np.log10(255**2 / 50))


@pytest.fixture(scope="module")
def world():
    return AblationPlan(world=WorldPlan(size=64, frames=5, samples=4, clips=2))


@pytest.mark.parametrize("task", ["animation_multi", "replacement_multi"])
def test_the_renderer_draws_the_mistakes(world, task):
    base = ABLATION_CATALOGUE["binding_slots"].published
    source = world.source(base, split="test", tested=True)
    clip = next(evaluation_clips(task, source, 1, variant=world.settings(base.changes)))
    perfect = interference_measures(clip.truth, clip, source)
    assert set(perfect) == set(MEASURES)
    assert (perfect["wrong_background"], perfect["mode_leakage"], perfect["identity_swaps"]) == (0, 0, 0)
    assert perfect["hand_psnr"] == 60
    exchanged = source.exchanged(clip.triplet.kind, 0, clip.triplet.meta["start"])
    swapped = interference_measures(exchanged, clip, source)
    assert swapped["identity_swaps"] == 1
    assert swapped["wrong_background"] < 0.1  # bodies differ in shape, the scene does not
    astray = interference_measures(other_scene(clip, source), clip, source)
    assert astray["wrong_background"] == 1
    assert astray["mode_leakage"] == pytest.approx(1)
    # The scene itself is no mistake, but for the outlines of the bodies that it lacks.
    assert interference_measures(clip.plate, clip, source)["wrong_background"] < 0.05


def test_stills_of_an_experiment_show_characters_in_any_place(world):
    source = world.source()
    places = []
    for index in range(6):
        cast = source.performances(index, 1, 2)
        still = source.still(cast, index, 1, source.scene(index, 1), np.random.default_rng(index))
        middles = [np.flatnonzero(track.any(axis=0)).mean() for track in still.tracks]
        places.append(middles[0] < middles[1])
    assert 0 < sum(places) < 6
