"""What a run samples with: presets, explicit arguments and a model's own defaults weighed against each other; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

from scail2.errors import InputError
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.request.presets import Solver
from scail2.request.presets import preset as find_preset


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingDefaults:
    """What a pipeline samples with when a call names nothing; enough to plan a run without its weights.

    Attributes:
        preset: name of its default preset.
        scheduler: class of its scheduler component.
        shift: the timestep shift that component is configured with, ``None`` if it has none.
        guidance_scale: that of its guider component, ``None`` without one (then the preset's counts).
    """

    preset: str
    scheduler: str
    shift: float | None = None
    guidance_scale: float | None = None

    @classmethod
    def of(cls, pipe: Any) -> Self:
        """Read them off a pipeline."""
        return cls(
            preset=pipe.config.default_preset,
            scheduler=type(pipe.scheduler).__name__,
            shift=configured_shift(pipe.scheduler.config),
            guidance_scale=None if pipe.guider is None else pipe.guider.config.get("guidance_scale"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """What one run samples with, after presets and explicit arguments have been weighed.

    ``solver`` ``None`` means the pipeline's scheduler component, ``shift`` ``None`` that component's own, if it has one.
    """

    steps: int
    guidance_scale: float
    solver: Solver | None
    shift: float | None

    def __post_init__(self) -> None:
        if self.solver is not None and self.shift is None:
            raise ValueError(f"the solver {self.solver} needs a shift")


def resolve_settings(
    defaults: SamplingDefaults,
    size: tuple[int, int],
    *,
    preset: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    shift: float | None = None,
    solver: str | None = None,
) -> SamplingSettings:
    """Explicit arguments win over a named preset, which wins over the pipeline's default preset.

    A preset that is named brings its solver and its shift for the video's ``size`` (height, width). With neither a
    preset nor a solver named, the scheduler component is used with its own shift; while that is the default preset's,
    it follows the video's size, too. A guider component keeps its scale unless ``guidance_scale`` is given.
    """
    chosen = find_preset(defaults.preset if preset is None else preset)
    if preset is not None or solver is not None:
        solver = Solver.parse(chosen.solver if solver is None else solver)
        shift = chosen.shift_for(*size) if shift is None else shift
    elif shift is None:
        shift = chosen.shift_for(*size) if defaults.shift == chosen.shift else defaults.shift
    elif defaults.shift is None:
        raise InputError(
            f"{defaults.scheduler} has no timestep shift: leave `shift` away, or choose a solver with `solver`."
        )
    steps = chosen.steps if num_inference_steps is None else num_inference_steps
    if guidance_scale is None:
        guidance_scale = chosen.guidance_scale if defaults.guidance_scale is None else defaults.guidance_scale
    if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= steps <= NUM_TRAIN_TIMESTEPS:
        raise InputError(
            f"num_inference_steps is {steps!r}; it must be a whole number from 1 to {NUM_TRAIN_TIMESTEPS}."
        )
    if not (isinstance(guidance_scale, Real) and math.isfinite(guidance_scale)):
        raise InputError(f"guidance_scale is {guidance_scale!r}; it must be a finite number, 1 for no guidance.")
    if shift is not None and not (isinstance(shift, Real) and math.isfinite(shift) and shift > 0):
        raise InputError(f"shift is {shift!r}; it must be a positive number, 1 for an even schedule.")
    return SamplingSettings(
        steps=int(steps),
        guidance_scale=float(guidance_scale),
        solver=solver,
        shift=None if shift is None else float(shift),
    )


def configured_shift(config: Mapping[str, Any]) -> float | None:
    """The timestep shift in a scheduler's configuration, ``None`` if it has none."""
    name = shift_name(config)
    return None if name is None else config[name]


def shift_name(config: Mapping[str, Any]) -> str | None:
    """What a scheduler's configuration calls its shift."""
    return next((name for name in ("flow_shift", "shift") if name in config), None)
