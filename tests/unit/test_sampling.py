"""Presets, schedules and solvers against the formulas they stand for."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from scail2.errors import InputError
from scail2.pipeline.sampling import fresh_scheduler, make_scheduler, set_timesteps, sigma_at, take_step
from scail2.pipeline.settings import SamplingDefaults, SamplingSettings, configured_shift, resolve_settings
from scail2.request.presets import PRESETS, Solver, preset

CPU = torch.device("cpu")


def shifted(base: np.ndarray, shift: float) -> np.ndarray:
    return shift * base / (1 + (shift - 1) * base)


@pytest.mark.parametrize(
    ("name", "solver", "steps", "guidance", "shift"),
    [
        ("quality", "unipc", 40, 5.0, 3.0),
        ("balanced", "unipc", 8, 1.0, 5.0),
        ("fast", "euler", 6, 1.0, 5.0),
        ("distilled", "unipc", 8, 1.0, 1.0),
        ("nano", "euler", None, 1.0, None),
    ],
)
def test_presets_are_the_published_numbers(name, solver, steps, guidance, shift):
    chosen = preset(name)
    assert chosen.solver == solver
    assert chosen.guidance_scale == guidance
    if steps is not None:
        assert (chosen.steps, chosen.shift) == (steps, shift)
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.steps = 3


def test_preset_details():
    assert preset("quality").shift_for(512, 896) == 3.0
    assert preset("quality").shift_for(1280, 704) == 5.0
    assert [lora.strength for lora in preset("fast").loras] == [1.0, 0.8]
    assert [lora.strength for lora in preset("distilled").loras] == [1.0]
    assert preset("quality").loras == preset("nano").loras == ()
    assert set(PRESETS) == {"quality", "balanced", "fast", "distilled", "nano"}
    with pytest.raises(InputError, match="choose one of quality, balanced"):
        preset("best")


@pytest.mark.parametrize("steps", [1, 8, 40])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize(("solver", "top"), [("unipc", 0.999), ("dpm++", 1.0), ("euler", 1.0)])
def test_noise_levels_are_evenly_spaced_and_then_shifted(solver, top, shift, steps):
    scheduler = make_scheduler(solver, shift)
    set_timesteps(scheduler, steps, CPU)
    expected = shifted(np.linspace(top, 0, steps + 1), shift)
    np.testing.assert_allclose([sigma_at(scheduler, i) for i in range(steps + 1)], expected, atol=1e-6)
    # Multistep solvers name their steps by whole numbers, cut off, as the published sampler does.
    timesteps = expected[:-1] * 1000
    np.testing.assert_allclose(scheduler.timesteps, timesteps if solver == "euler" else np.trunc(timesteps), atol=1e-3)


@pytest.mark.parametrize("solver", list(Solver))
@pytest.mark.parametrize("steps", [1, 2, 6, 40])
def test_a_perfect_model_is_sampled_exactly(solver, steps):
    """With v = (x_t - x0) / t the flow is a straight line to x0, which every consistent solver follows exactly."""
    torch.manual_seed(1)
    target, latents = torch.randn(2, 3), torch.randn(2, 3)
    scheduler = make_scheduler(solver, 3.0)
    set_timesteps(scheduler, steps, CPU)
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = (latents - target) / sigma_at(scheduler, step)
        latents = take_step(scheduler, velocity, timestep, latents, torch.Generator())
    torch.testing.assert_close(latents, target, atol=2e-5, rtol=0)


def test_solvers_approach_the_true_flow_at_their_order():
    """v of Gaussian data N(0, s²), whose flow is known in closed form: error must fall as the solver promises."""
    s = 0.5

    def spread(t: float) -> float:
        return ((1 - t) ** 2 * s**2 + t**2) ** 0.5

    def error(solver: Solver, steps: int) -> float:
        scheduler = make_scheduler(solver, 3.0)
        set_timesteps(scheduler, steps, CPU)
        start = sigma_at(scheduler, 0)
        x = torch.ones(1, 1)
        for step, timestep in enumerate(scheduler.timesteps):
            t = sigma_at(scheduler, step)
            x0 = x * (1 - t) * s**2 / spread(t) ** 2
            x = take_step(scheduler, (x - x0) / t, timestep, x, torch.Generator())
        return abs(float(x) - spread(0.0) / spread(start))

    euler, unipc, dpm = (error(solver, 20) for solver in (Solver.EULER, Solver.UNIPC, Solver.DPMPP))
    assert unipc < 0.3 * euler
    assert dpm < 0.3 * euler
    assert error(Solver.EULER, 40) < 0.6 * euler
    assert error(Solver.UNIPC, 40) < 0.5 * unipc


def defaults(name: str, scheduler: SchedulerMixin, guidance_scale: float | None = None) -> SamplingDefaults:
    return SamplingDefaults(
        preset=name,
        scheduler=type(scheduler).__name__,
        shift=configured_shift(scheduler.config),
        guidance_scale=guidance_scale,
    )


QUALITY = defaults("quality", make_scheduler("unipc", 3.0))


def test_explicit_settings_win_over_the_preset_and_that_over_the_default():
    assert resolve_settings(QUALITY, (512, 896)) == SamplingSettings(
        steps=40, guidance_scale=5.0, solver=None, shift=3.0
    )
    assert resolve_settings(QUALITY, (704, 1280), preset="quality").shift == 5.0
    fast = resolve_settings(QUALITY, (512, 896), preset="fast", num_inference_steps=4, shift=2.0)
    assert fast == SamplingSettings(steps=4, guidance_scale=1.0, solver=Solver.EULER, shift=2.0)
    assert resolve_settings(dataclasses.replace(QUALITY, preset="fast"), (512, 896), solver="unipc").shift == 5.0


def test_a_guider_keeps_its_scale_unless_one_is_named():
    guided = dataclasses.replace(QUALITY, guidance_scale=3.5)
    assert resolve_settings(guided, (512, 896)).guidance_scale == 3.5
    assert resolve_settings(guided, (512, 896), preset="fast").guidance_scale == 3.5
    assert resolve_settings(guided, (512, 896), guidance_scale=2.0).guidance_scale == 2.0


def test_the_default_presets_shift_follows_the_size_unless_the_scheduler_was_configured_otherwise():
    def shift(size: tuple[int, int], configured: float) -> float | None:
        return resolve_settings(defaults("quality", make_scheduler("unipc", configured)), size).shift

    assert shift((512, 896), 3.0) == 3.0
    assert shift((704, 1280), 3.0) == shift((1280, 704), 3.0) == 5.0
    assert shift((704, 1280), 7.0) == 7.0
    assert [configured_shift(make_scheduler(name, 3.0).config) for name in ("unipc", "euler")] == [3.0, 3.0]
    assert configured_shift(DDIMScheduler().config) is None


def test_a_scheduler_without_a_shift_has_none_and_takes_none():
    without = defaults("quality", DDIMScheduler())
    assert resolve_settings(without, (704, 1280)).shift is None
    assert resolve_settings(without, (704, 1280), solver="unipc").shift == 5.0
    with pytest.raises(InputError, match="DDIMScheduler has no timestep shift"):
        resolve_settings(without, (704, 1280), shift=7.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"num_inference_steps": True}, "num_inference_steps"),
        ({"num_inference_steps": 5000}, "num_inference_steps"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"shift": float("inf")}, "shift"),
        ({"shift": "3"}, "shift is '3'"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": "5"}, "guidance_scale is '5'"),
        ({"solver": "ddim"}, "unipc, dpm"),
        ({"preset": "slow"}, "unknown preset"),
    ],
)
def test_refused_settings(change, message):
    with pytest.raises(InputError, match=message):
        resolve_settings(QUALITY, (512, 896), **change)


def test_numpys_numbers_are_numbers():
    given = {"num_inference_steps": np.int64(2), "shift": np.float32(3), "guidance_scale": np.float64(1.5)}
    settings = resolve_settings(QUALITY, (512, 896), **given)
    assert (settings.steps, settings.shift, settings.guidance_scale) == (2, 3.0, 1.5)
    assert type(settings.steps) is int


def test_a_scheduler_is_rebuilt_from_its_configuration():
    component = make_scheduler("unipc", 3.0)
    set_timesteps(component, 4, CPU)
    before = dict(component.__dict__)
    own = SamplingSettings(steps=4, guidance_scale=1.0, solver=None, shift=3.0)
    fresh = fresh_scheduler(component, own)
    assert type(fresh) is type(component)
    assert fresh is not component
    assert fresh.config.flow_shift == 3.0
    assert component.__dict__ == before
    changed = dataclasses.replace(own, shift=7.0)
    assert fresh_scheduler(component, changed).config.flow_shift == 7.0
    assert fresh_scheduler(FlowMatchHeunDiscreteScheduler(shift=2.0), changed).config.shift == 7.0
    assert component.config.flow_shift == 3.0
    unshifted = fresh_scheduler(DDIMScheduler(beta_start=0.01), dataclasses.replace(own, shift=None))
    assert (type(unshifted), unshifted.config.beta_start) == (DDIMScheduler, 0.01)


def test_dynamic_shifting_is_refused():
    scheduler = type(make_scheduler("euler", 1.0))(use_dynamic_shifting=True)
    with pytest.raises(InputError, match="use_dynamic_shifting"):
        set_timesteps(scheduler, 4, CPU)
