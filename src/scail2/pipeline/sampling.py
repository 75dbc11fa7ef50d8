"""Sampling set-up: which solver, how many steps, which shift, and a fresh scheduler for every segment.

A scheduler keeps multistep state, so none outlives a segment: each segment gets a new object with the same
configuration, and the pipeline's own component is only read.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from scail2.errors import InputError
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.pipeline.settings import SamplingSettings, shift_name
from scail2.request.presets import Solver


def make_scheduler(solver: Solver | str, shift: float) -> SchedulerMixin:
    """A flow-matching scheduler of diffusers for velocity predictions ``noise - x0``."""
    solver = Solver.parse(solver)
    if solver is Solver.EULER:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
    multistep = {
        "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "solver_order": 2,
        "final_sigmas_type": "zero",
    }
    if solver is Solver.UNIPC:
        return UniPCMultistepScheduler(**multistep)
    return DPMSolverMultistepScheduler(**multistep, algorithm_type="dpmsolver++", solver_type="midpoint")


def fresh_scheduler(component: SchedulerMixin, settings: SamplingSettings) -> SchedulerMixin:
    """A new scheduler for one segment; ``component`` is read, never changed."""
    if settings.solver is not None and settings.shift is not None:
        return make_scheduler(settings.solver, settings.shift)
    name = shift_name(component.config)
    changes = {} if settings.shift is None or name is None else {name: settings.shift}
    return type(component).from_config(component.config, **changes)


def set_timesteps(scheduler: SchedulerMixin, steps: int, device: torch.device) -> None:
    """Lay out the steps as the published sampler does, to the last digit.

    Before the shift, noise levels are evenly spaced from the top down to 0, which is the end and not a step; timesteps
    are whole numbers, cut off. UniPC starts at 1 - 1/1000, rounded to float32 before all else is float64: without that,
    a timestep 666 becomes 665. DPM++ and Euler start at 1. diffusers' UniPC would end near 1/1000 instead of 0, its DPM++
    would start at 1 - 1/1000, and its Euler would apply the shift twice to the last level, so all are told their levels.
    """
    config = scheduler.config
    if config.get("use_dynamic_shifting", False):
        raise InputError("the pipeline's scheduler shifts by image size (use_dynamic_shifting): choose a `solver`.")
    spaced = any(config.get(f"use_{kind}", False) for kind in _OTHER_SPACINGS)
    if isinstance(scheduler, UniPCMultistepScheduler) and config.use_flow_sigmas and not spaced:
        top = float(np.float32(1.0 - 1.0 / config.num_train_timesteps))
        scheduler.set_timesteps(sigmas=_even_levels(top, steps), device=device)
    elif isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and not spaced:
        scheduler.set_timesteps(sigmas=_even_levels(1.0, steps), device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
        if _is_dpmpp(scheduler) and not spaced:
            _start_at_pure_noise(scheduler, steps)
    if hasattr(scheduler, "set_begin_index"):
        # Neighbouring steps may round to one integer timestep; counting steps is exact where looking them up is not.
        scheduler.set_begin_index(0)


# Options of diffusers' schedulers that space noise levels by a rule of their own, which is kept.
_OTHER_SPACINGS = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")


def _even_levels(top: float, steps: int) -> np.ndarray:
    """``steps`` noise levels float64 from ``top`` down, evenly spaced, without the 0 they lead to."""
    return np.linspace(top, 0.0, steps + 1)[:-1]


def _is_dpmpp(scheduler: SchedulerMixin) -> bool:
    """DPM-Solver++ for flows. The solvers in noise form ("dpmsolver") divide by 1 - t and cannot start at t = 1."""
    return (
        isinstance(scheduler, DPMSolverMultistepScheduler)
        and scheduler.config.use_flow_sigmas
        and scheduler.config.algorithm_type.endswith("++")
    )


def _start_at_pure_noise(scheduler: DPMSolverMultistepScheduler, steps: int) -> None:
    """DPM++ takes no levels as an argument: give it those of a schedule from 1, keeping the last level it ends on."""
    shift = scheduler.config.flow_shift
    levels = _even_levels(1.0, steps)
    levels = shift * levels / (1 + (shift - 1) * levels)
    timesteps = (levels * scheduler.config.num_train_timesteps).astype(np.int64)
    scheduler.timesteps = torch.from_numpy(timesteps).to(scheduler.timesteps.device)
    scheduler.sigmas = torch.cat([torch.from_numpy(levels.astype(np.float32)), scheduler.sigmas[-1:]])


def sigma_at(scheduler: SchedulerMixin, step: int) -> float:
    """The noise level t in x_t = (1 - t) x0 + t noise, 0 to 1, that step number ``step`` starts from."""
    return float(scheduler.sigmas[step])


def take_step(
    scheduler: SchedulerMixin, velocity: Tensor, timestep: Tensor, latents: Tensor, generator: torch.Generator
) -> Tensor:
    """One solver step; stochastic schedulers draw from the run's generator and never from the global one."""
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if takes_generator else {}
    return scheduler.step(velocity, timestep, latents, return_dict=False, **extra)[0]
