"""What a run samples with: the request's settings over the preset's, as one object that is hashed and stored."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from scail2.request import AnimationRequest
from scail2.runs.model import ModelFacts
from scail2.runs.planning import RunPlan
from scail2.sampling import resolve_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingChoice:
    """How a run samples.

    Attributes:
        arguments: keyword arguments of `SCAIL2Pipeline.stream`, None where the preset decides. ``prompt`` is None for a
            model without text, whatever was asked.
        resolved: steps, guidance scale, solver and shift they come to.
    """

    arguments: dict[str, Any]
    resolved: dict[str, Any]

    @classmethod
    def of(cls, request: AnimationRequest, facts: ModelFacts, plan: RunPlan) -> Self:
        """Weighs request and preset; `InputError` for unknown presets and solvers."""
        given = {
            "preset": request.preset,
            "guidance_scale": request.guidance_scale,
            "shift": request.shift,
            "solver": request.solver,
        }
        resolved = resolve_settings(facts.preset, (plan.height, plan.width), steps=request.steps, **given)
        text = {"prompt": request.prompt, "negative_prompt": request.negative_prompt or None}
        if not facts.takes_text:
            text = dict.fromkeys(text)
        return cls(arguments=given | text | {"num_inference_steps": request.steps}, resolved=asdict(resolved))

    @property
    def steps(self) -> int:
        """Denoising steps of a segment."""
        return self.resolved["steps"]

    def to_json(self) -> dict[str, Any]:
        """For hashing and plan.json."""
        return self.arguments | {"resolved": self.resolved}
