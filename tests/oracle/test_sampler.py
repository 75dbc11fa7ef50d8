"""Every solver with every preset's shift and 1 to 50 steps, and schedules of any other shift, against the oracle."""

import numpy as np
import pytest
import sampler_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import TOLERANCES

from scail2.pipeline.sampling import make_scheduler, set_timesteps, take_step
from scail2.pipeline.settings import SamplingDefaults, resolve_settings
from scail2.request.presets import PRESETS, Solver

CPU = torch.device("cpu")
SIZES = {"small": (512, 896), "large": (704, 1280)}
SHIFTS = sorted({preset.shift_for(*size) for preset in PRESETS.values() for size in SIZES.values()})


def velocity(x, time: float, tanh=np.tanh):
    """A field that depends on both arguments, smooth enough for a comparison of rounding."""
    return x - tanh(1.3 * x + np.cos(time / 190.0))


def sampled(solver: str, steps: int, shift: float, x: np.ndarray) -> np.ndarray:
    scheduler = make_scheduler(solver, shift)
    set_timesteps(scheduler, steps, CPU)
    latents = torch.from_numpy(x.astype(np.float32))
    for timestep in scheduler.timesteps:
        change = velocity(latents, timestep.item(), torch.tanh)
        latents = take_step(scheduler, change, timestep, latents, torch.Generator())
    return latents.numpy()


def assert_same_schedule(solver: str, steps: int, shift: float) -> None:
    scheduler = make_scheduler(solver, shift)
    set_timesteps(scheduler, steps, CPU)
    levels, times = oracle.schedule(solver, steps, shift)
    assert np.abs(scheduler.sigmas.numpy() - np.array(levels)).max() <= TOLERANCES["sigmas"]
    if solver == "euler":
        np.testing.assert_allclose(scheduler.timesteps.numpy(), times, rtol=TOLERANCES["sigmas"])
    else:
        assert scheduler.timesteps.tolist() == times


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("solver", list(Solver))
def test_every_solver_takes_every_presets_settings(solver, preset, size):
    defaults = SamplingDefaults(preset="quality", scheduler="UniPCMultistepScheduler", shift=3.0)
    for steps in range(1, 51):
        chosen = resolve_settings(defaults, SIZES[size], preset=preset, solver=solver, num_inference_steps=steps)
        assert (chosen.solver, chosen.steps) == (solver, steps)
        assert chosen.shift == PRESETS[preset].shift_for(*SIZES[size])


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("solver", list(Solver))
def test_every_solver_shift_and_number_of_steps(solver, shift):
    x = np.random.default_rng(0).standard_normal((4, 8))
    for steps in range(1, 51):
        assert_same_schedule(solver, steps, shift)
        expected = oracle.sample(solver, steps, shift, x, velocity)
        assert np.abs(sampled(solver, steps, shift, x) - expected).max() <= TOLERANCES["solvers"]


@settings(max_examples=150, deadline=None)
@given(
    solver=st.sampled_from(["unipc", "dpm++"]),
    steps=st.integers(1, 1000),
    shift=st.one_of(st.integers(1, 20).map(float), st.integers(1, 200).map(lambda n: n / 10), st.floats(0.05, 100)),
)
def test_every_other_schedule(solver, steps, shift):
    assert_same_schedule(solver, steps, shift)


def test_the_published_corner_cases_of_the_schedules():
    """Where float32 and float64, rounding and cutting off, 0.999 and 1 part ways."""
    assert oracle.schedule("unipc", 6, 1.0)[1] == [999, 832, 666, 499, 333, 166]
    assert oracle.schedule("dpm++", 8, 3.0)[1] == [1000, 954, 900, 833, 750, 642, 500, 300]
    assert oracle.schedule("dpm++", 5, 1.0)[1] == [1000, 800, 600, 399, 199]
