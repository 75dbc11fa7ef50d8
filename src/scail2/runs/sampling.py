"""What a run samples with: the request's settings over the preset's, as one object that is hashed, stored and rendered with."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from scail2.errors import InputError
from scail2.perception import findings
from scail2.perception.findings import Finding
from scail2.presets import preset
from scail2.request import AnimationRequest
from scail2.runs.model import ModelFacts
from scail2.runs.planning import RunPlan
from scail2.sampling import SamplingSettings, resolve_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingChoice:
    """How a run samples.

    Attributes:
        asked: what the request says under the names of `SCAIL2Pipeline.stream`'s arguments, None where the preset or the
            model decides. ``prompt`` is None for a model without text, whatever was asked.
        settings: what it comes to; rendered with as it stands here.
        scheduler: class of the model's scheduler, which samples where ``settings`` name no solver.
    """

    asked: dict[str, Any]
    settings: SamplingSettings
    scheduler: str

    @classmethod
    def of(cls, request: AnimationRequest, facts: ModelFacts, plan: RunPlan) -> Self:
        """Weighs request, preset and model; `InputError` for unknown presets and solvers, and what the model cannot do."""
        given = {
            "preset": request.preset,
            "guidance_scale": request.guidance_scale,
            "shift": request.shift,
            "solver": request.solver,
        }
        settings = resolve_settings(facts.sampling, (plan.height, plan.width), steps=request.steps, **given)
        text = {"prompt": request.prompt, "negative_prompt": request.negative_prompt or None}
        if not facts.takes_text:
            if settings.guidance_scale != 1.0 and facts.sampling.guidance_scale is None:
                raise InputError("This model has no text to guide away from: use --guidance-scale 1.")
            text = dict.fromkeys(text)
        asked = given | text | {"num_inference_steps": request.steps}
        return cls(asked=asked, settings=settings, scheduler=facts.sampling.scheduler)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `SCAIL2Pipeline.stream`: nothing is left for it to decide again."""
        settings = self.settings
        return self.asked | {
            "preset": None,
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
            "solver": settings.solver,
            "shift": settings.shift,
        }

    def to_json(self) -> dict[str, Any]:
        """For plan.json: what was asked, and under ``resolved`` what it comes to."""
        return self.asked | {"resolved": asdict(self.settings) | {"scheduler": self.scheduler}}

    def identity(self) -> dict[str, Any]:
        """What segments are keyed by. A shift that nobody asked for belongs to the model, which has a key of its own."""
        decides = all(self.asked[name] is None for name in ("preset", "solver", "shift"))
        settings = replace(self.settings, shift=None) if decides else self.settings
        return self.asked | {"resolved": asdict(settings)}


def sampling_findings(request: AnimationRequest, facts: ModelFacts) -> list[Finding]:
    """Warnings about what was asked and will not work as asked."""
    found = []
    if request.prompt and not facts.takes_text:
        found.append(
            findings.warning(
                "prompt", "this model takes no text: the prompt is kept with the run but not used", "leave it out"
            )
        )
    chosen = None if request.preset is None else preset(request.preset)
    if chosen is not None and chosen.loras and not facts.has_loras:
        found.append(
            findings.warning(
                "preset_loras",
                f"preset {chosen.name} is tuned for LoRAs ({chosen.told_loras()}) and none is loaded: few steps without "
                "them give mush, unless they were merged into the model's file",
                "name them with --lora, or choose the preset quality",
            )
        )
    return found
