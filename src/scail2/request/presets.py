"""Sampling presets: solver, steps, guidance, shift and the adapters they were tuned with.

The numbers are the ones in public use for this network; a preset changes how a video is sampled, never what is
conditioned on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scail2.errors import InputError


class Solver(StrEnum):
    """Flow-matching solvers: UniPC (order 2), DPM-Solver++ (order 2) and Euler."""

    UNIPC = "unipc"
    DPMPP = "dpm++"
    EULER = "euler"

    @classmethod
    def parse(cls, value: str | Solver) -> Solver:
        """A solver from its name; unknown names raise ``InputError``."""
        try:
            return cls(value)
        except ValueError:
            names = ", ".join(cls)
            raise InputError(f"unknown solver {value!r}: choose one of {names}.") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class PresetLora:
    """An adapter a preset was tuned with: what it is called in public and the strength to load it at."""

    name: str
    strength: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingPreset:
    """How to sample one segment.

    Attributes:
        steps: solver steps, each one forward pass (two with guidance).
        guidance_scale: classifier-free guidance; 1.0 turns it off and halves the cost.
        shift: timestep shift s of t' = s t / (1 + (s - 1) t); larger spends more steps near pure noise.
        large_shift: the shift to use instead where the short side is 704 pixels or more; ``None`` keeps ``shift``.
        loras: adapters that must be loaded for these settings to make sense, in load order.
    """

    name: str
    solver: Solver
    steps: int
    guidance_scale: float
    shift: float
    large_shift: float | None = None
    loras: tuple[PresetLora, ...] = ()

    def told_loras(self) -> str:
        """The adapters, in words."""
        return ", then ".join(f"{lora.name} at {lora.strength}" for lora in self.loras)

    def refuse_without_loras(self) -> None:
        """Raises ``InputError`` for a preset that was tuned for LoRAs: call it where none is loaded."""
        if not self.loras:
            return
        numbers = f"--steps {self.steps} --guidance-scale {self.guidance_scale:g} --shift {self.shift:g} --solver {self.solver}"
        raise InputError(
            f"preset {self.name} is tuned for LoRAs ({self.told_loras()}) and none is loaded: so few steps without them give "
            "mush. Name them with --lora (`scail2 setup` fetches them), or take the preset quality. Where they are merged into "
            f"the model's file already, give the preset's numbers instead of its name: {numbers}"
        )

    def shift_for(self, height: int, width: int) -> float:
        """The timestep shift for a video of this size in pixels."""
        if self.large_shift is not None and min(height, width) >= LARGE_SHORT_SIDE:
            return self.large_shift
        return self.shift


LARGE_SHORT_SIDE = 704

_STEP_DISTILLATION = "lightx2v I2V step and CFG distillation"
_FAST_LORAS = (
    PresetLora(name="SCAIL-2 Bias-Aware DPO", strength=1.0),
    PresetLora(name=_STEP_DISTILLATION, strength=0.8),
)

PRESETS: dict[str, SamplingPreset] = {
    preset.name: preset
    for preset in (
        SamplingPreset(name="quality", solver=Solver.UNIPC, steps=40, guidance_scale=5.0, shift=3.0, large_shift=5.0),
        SamplingPreset(name="balanced", solver=Solver.UNIPC, steps=8, guidance_scale=1.0, shift=5.0, loras=_FAST_LORAS),
        SamplingPreset(name="fast", solver=Solver.EULER, steps=6, guidance_scale=1.0, shift=5.0, loras=_FAST_LORAS),
        SamplingPreset(
            name="distilled",
            solver=Solver.UNIPC,
            steps=8,
            guidance_scale=1.0,
            shift=1.0,
            loras=(PresetLora(name=_STEP_DISTILLATION, strength=1.0),),
        ),
        # The embedded checkpoint has neither text nor CLIP conditioning, so there is nothing to guide with; it was trained
        # mostly at pure noise, and one step measures best (docs/nano.md).
        SamplingPreset(name="nano", solver=Solver.EULER, steps=1, guidance_scale=1.0, shift=4.0),
    )
}


def preset(name: str | SamplingPreset) -> SamplingPreset:
    """The preset of that name; a ``SamplingPreset`` passes through; unknown names raise ``InputError``."""
    if isinstance(name, SamplingPreset):
        return name
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
