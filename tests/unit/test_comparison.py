"""Confidence intervals of paired differences."""

import numpy as np
import pytest

from scail2.errors import InputError
from scail2.evaluation.comparison import Interval, paired_interval


def test_the_interval_is_that_of_the_mean():
    differences = np.random.default_rng(1).normal(0.3, 0.5, size=(1, 400))
    found = paired_interval(differences, draws=3000)
    error = differences.std() / np.sqrt(400)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.006)
    assert found.sign == 1
    assert paired_interval(-differences, draws=500).sign == -1
    narrow = paired_interval(differences, level=0.5, draws=500)
    assert found.low < narrow.low < narrow.high < found.high


def test_it_is_told_with_real_minus_signs_and_zero_without_any():
    assert Interval(0.4321, -0.0004, 0.86).told(3) == "+0.432 (0.000 … +0.860)"
    assert Interval(-0.125, -0.5, float("nan")).told(1, scale=100) == "−12.5 (−50.0 … –)"


def test_trainings_that_disagree_widen_it():
    clips = np.random.default_rng(2).normal(0.0, 0.01, size=200)
    disagreeing = np.stack([clips - 0.3, clips, clips + 0.6])
    found = paired_interval(disagreeing, draws=1000)
    assert found.sign == 0
    assert found.high - found.low > 0.5


def test_it_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        drawn = np.random.default_rng(seed).normal(0.1, 1.0, size=(1, 40))
        found = paired_interval(drawn, draws=400, seed=seed)
        covered += found.low <= 0.1 <= found.high
    assert 87 <= covered <= 99


def test_clips_without_the_measure_are_left_out_and_too_few_refused():
    assert paired_interval(np.array([[1.0, np.nan, 1.0], [1.0, 5.0, 1.0]])) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="1 clips"):
        paired_interval(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match="trainings, clips"):
        paired_interval(np.zeros(3))
