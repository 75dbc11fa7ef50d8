"""Sharpness, edges, eyes and flicker against pictures whose values can be worked out by hand."""

import numpy as np
import pytest

from scail2.data.puppet_source import PuppetSource
from scail2.evaluation import detail
from scail2.evaluation.clips import evaluation_clips
from scail2.evaluation.measures import measure_clip

EVERYWHERE = np.ones((1, 12, 12), bool)


def step(column: int, height: int = 100, width: int = 12) -> np.ndarray:
    """A black and a lighter half that meet at a column, `(1, 12, width, 3)`."""
    clip = np.zeros((1, 12, width, 3), np.uint8)
    clip[:, :, column:] = height
    return clip


def test_sharpness_is_the_ratio_of_squared_slopes():
    assert detail.sharpness(step(6, 50), step(6), EVERYWHERE) == pytest.approx(0.25)
    ramp = step(6)
    ramp[:, :, 5] = 50  # the same rise in two halves: 2·50² of 100²
    assert detail.sharpness(ramp, step(6), EVERYWHERE) == pytest.approx(0.5)
    beside = EVERYWHERE.copy()
    beside[:, :, :8] = False
    assert detail.sharpness(step(9), step(9), beside) == 1
    assert np.isnan(detail.sharpness(step(9), step(6), beside))


def test_an_edge_is_where_a_step_is_and_right_within_one_pixel():
    found = detail.edges(step(6))[0]
    assert found[:, 5:7].all()
    assert not found[:, :5].any()
    assert not found[:, 7:].any()
    assert detail.edges(step(6, 2 * int(detail.EDGE) - 2)).sum() == 0
    assert detail.edge_f1(step(7), step(6), EVERYWHERE) == 1
    assert detail.edge_f1(step(10), step(6), EVERYWHERE) == 0
    assert detail.edge_f1(np.zeros_like(step(6)), step(6), EVERYWHERE) == 0
    assert np.isnan(detail.edge_f1(step(6), np.zeros_like(step(6)), EVERYWHERE))
    both = step(6)
    both[:, :, 10:] = 0  # one edge is right, one is invented: precision 1/2, recall 1
    assert detail.edge_f1(both, step(6), EVERYWHERE) == pytest.approx(2 / 3)


def test_edges_far_from_the_region_do_not_count():
    region = np.zeros((1, 12, 12), bool)
    region[:, :, :3] = True
    truth = step(2)
    output = truth.copy()
    output[:, :, 9:] = 255
    assert detail.edge_f1(output, truth, region) == 1
    assert detail.edge_f1(output, truth, EVERYWHERE) < 1


def face(*pupils: tuple[int, int]) -> np.ndarray:
    """A skin-coloured frame with eyes of 6×4 white pixels around pupils of 2×2."""
    frame = np.full((1, 24, 32, 3), (200, 150, 120), np.uint8)
    for row, column in pupils:
        frame[0, row - 2 : row + 4, column - 1 : column + 3] = 255
        frame[0, row : row + 2, column : column + 2] = 20
    return frame


def test_eyes_are_found_one_by_one():
    truth, head = face((8, 8), (8, 20)), np.ones((1, 24, 32), np.uint8)
    assert detail.eyes_found(truth, truth, head, {1}) == 1
    assert detail.eyes_found(face((8, 8)), truth, head, {1}) == 0.5
    assert detail.eyes_found(face(), truth, head, {1}) == 0
    assert np.isnan(detail.eyes_found(truth, face(), head, {1}))
    assert np.isnan(detail.eyes_found(truth, truth, 2 * head, {1}))
    faint = (truth // 4 + 90).astype(np.uint8)
    assert detail.eyes_found(faint, truth, head, {1}) == 0
    assert detail.eyes_found((truth // 4 * 3).astype(np.uint8), truth, head, {1}) == 1


def test_flicker_counts_only_where_the_truth_stands_still():
    truth = np.zeros((3, 4, 4, 3), np.uint8)
    truth[1, :2] = 80
    output = truth.copy()
    output[1] += 10
    # The lower half stands still and goes up and down by 10, the upper half moves and does not count.
    assert detail.flicker(output, truth) == pytest.approx(10)
    assert detail.flicker(truth, truth) == 0
    moving = np.stack([truth[0], truth[0] + 5, truth[0]])
    assert np.isnan(detail.flicker(output, moving))


def test_masks_grow_by_squares():
    mask = np.zeros((2, 7, 7), bool)
    mask[0, 3, 3] = mask[1, 0, 6] = True
    assert detail.grown(mask, 2)[0].sum() == 25
    assert detail.grown(mask, 2)[1].sum() == 9


def test_real_clips_have_eyes_and_blur_loses_them():
    source = PuppetSource(split="test", frames=5, height=128, width=128)
    clip = next(evaluation_clips("animation_single", source, 1))
    perfect = measure_clip(clip.truth, clip)
    assert [perfect[name] for name in ("sharpness", "background_sharpness", "edge_f1", "eyes_found")] == [1, 1, 1, 1]
    assert perfect["flicker"] < 0.1
    coarse = clip.truth[:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2)
    blurred = measure_clip(coarse, clip)
    assert blurred["eyes_found"] < 0.7
    assert blurred["edge_f1"] < 0.9
