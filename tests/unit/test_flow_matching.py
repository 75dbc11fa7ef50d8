import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scail2.training.config import LossConfig, TimestepConfig
from scail2.training.objectives.flow_matching import (
    add_noise,
    flow_matching_loss,
    sample_timesteps,
    shift_for_tokens,
    shift_timesteps,
)


def test_published_shift_at_its_two_anchor_sizes():
    assert math.log(shift_for_tokens(256)) == pytest.approx(0.5)
    assert math.log(shift_for_tokens(4096)) == pytest.approx(1.15)


@given(st.floats(1e-3, 1.0), st.floats(1.0, 12.0))
def test_shift_moves_toward_noise_and_keeps_the_ends(t, shift):
    shifted = shift_timesteps(torch.tensor(t, dtype=torch.float64), shift)
    assert t - 1e-9 <= shifted <= 1 + 1e-9
    assert shifted == pytest.approx(shift / (shift + 1 / t - 1))


def test_share_of_pure_noise_and_range():
    generator = torch.Generator().manual_seed(0)
    t = sample_timesteps(20_000, TimestepConfig(shift=4.0, pure_noise=0.3), 64, generator)
    assert (t == 1).float().mean() == pytest.approx(0.3, abs=0.02)
    assert t.min() > 0
    plain = sample_timesteps(20_000, TimestepConfig(shift=1.0), 64, generator)
    assert plain.median() == pytest.approx(0.5, abs=0.02)


def test_sample_space_loss_is_the_error_of_the_denoised_sample():
    generator = torch.Generator().manual_seed(1)
    sample, noise, guess = (torch.randn(3, 4, 2, 6, 5, generator=generator) for _ in range(3))
    t = torch.tensor([0.1, 0.5, 1.0])
    noisy = add_noise(sample, noise, t)
    velocity = (noisy - guess) / t.view(-1, 1, 1, 1, 1)
    weight = torch.rand(3, 1, 2, 6, 5, generator=generator)
    loss = flow_matching_loss(
        velocity, noise - sample, t, weight, LossConfig(space="sample", minimum_t=0.3, reduction="kept")
    )
    error = (guess - sample).square().mean(1, keepdim=True) / t.clamp(min=0.3).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(loss, (error * weight).sum() / weight.sum())


def test_cells_of_zero_weight_do_not_count():
    target = torch.zeros(1, 2, 2, 2, 2)
    velocity = target.clone()
    velocity[:, :, 0] = 100
    weight = torch.ones(1, 1, 2, 2, 2)
    weight[:, :, 0] = 0
    assert flow_matching_loss(velocity, target, torch.ones(1), weight, LossConfig()) == 0
    assert flow_matching_loss(velocity, target, torch.ones(1), torch.ones_like(weight), LossConfig()) > 0
