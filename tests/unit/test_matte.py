"""Alpha of finished films: how far inside the outline, how wide, and whose outline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS, paint_mask
from scail2.perception.matte import bound_characters, find_characters, soft_edge
from scail2.perception.tracks import TrackRecorder
from scail2.video import ArrayFrames


def test_an_edge_is_eroded_and_feathered_by_so_many_pixels():
    half = np.zeros((1, 9, 20), bool)
    half[:, :, 8:] = True  # the outline runs between columns 7 and 8
    row = soft_edge(half, erode=1, feather=2)[0, 4]
    # Half a pixel inside: a quarter of the way from 0 at the outline to all at two pixels inside.
    assert row[:12].tolist() == [0] * 8 + [64, 191, 255, 255]
    assert (row[10:] == 255).all()  # the picture's border is no outline
    assert soft_edge(half, erode=0, feather=0)[0, 0].tolist() == [0] * 8 + [255] * 12
    assert soft_edge(half, erode=2, feather=0)[0, 0].tolist() == [0] * 10 + [255] * 10
    outside = soft_edge(half, erode=0, feather=4)[0, 0]
    assert outside[5:12].tolist() == [0, 32, 96, 159, 223, 255, 255]


@given(st.floats(0, 4), st.floats(0, 6), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_alpha_follows_the_distance_to_the_outline(erode, feather, seed):
    """Against distances taken the slow way, to every pixel."""
    y, x = np.mgrid[:24, :26]
    centre = np.random.default_rng(seed).uniform(6, 18, 2)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 49
    marked = [np.argwhere(~inside), np.argwhere(inside)]
    every = np.stack([y, x], -1).reshape(-1, 1, 2)
    out, into = (np.sqrt(((every - each[None]) ** 2).sum(-1)).min(1).reshape(24, 26) for each in marked)
    depth = np.where(inside, out - 0.5, 0.5 - into)
    wanted = np.clip((depth - erode) / feather + 0.5, 0, 1) if feather > 1e-6 else depth >= erode
    made = soft_edge(inside[None], erode=erode, feather=feather if feather > 1e-6 else 0)[0]
    assert np.abs(made - 255.0 * wanted).max() <= 1


class _Finder:
    """Finds what it was told to find."""

    name = "told"

    def __init__(self, labels: np.ndarray):
        self.labels = labels

    def segment(self, frames, prompts=None, *, directory=None, progress=None):
        recorder = TrackRecorder(directory, height=self.labels.shape[1], width=self.labels.shape[2])
        recorder.add(self.labels)
        return recorder.finish("told")


def test_bystanders_of_a_finished_film_are_not_the_character(tmp_path):
    labels = np.zeros((5, 20, 40), np.uint8)
    labels[:, 4:18, 3:12] = 1  # the character, wider than the driving one
    labels[:, 4:18, 24:30] = 2  # somebody in the scene
    driving = np.zeros((1, 5, 20, 40), bool)
    driving[0, :, 5:17, 5:10] = True
    for background in ("black", "white"):
        palette = paint_mask(driving, BINDING_SLOTS[:1], background)
        np.testing.assert_array_equal(bound_characters(palette), driving[0])
        film = ArrayFrames(np.zeros((5, 20, 40, 3), np.uint8))
        found = find_characters(film, ArrayFrames(palette), _Finder(labels), None, tmp_path / background)
        assert found.numbers == (1,)
        np.testing.assert_array_equal(found.inside(1, 4), labels[1:4] == 1)
    nobody = np.where(labels == 2, 1, 0).astype(np.uint8)
    with pytest.raises(InputError, match="nobody is found in it where the driving characters are"):
        find_characters(film, ArrayFrames(palette), _Finder(nobody), None, tmp_path / "nobody")
