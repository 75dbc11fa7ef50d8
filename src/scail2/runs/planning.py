"""From a request, a video's header and a model's facts to numbers: size, rate, frames, segments."""

import math
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Self

from scail2.errors import InputError
from scail2.loading.facts import ModelFacts
from scail2.perception.checks import findings
from scail2.perception.checks.findings import Finding
from scail2.pipeline.settings import SamplingDefaults, SamplingSettings, resolve_settings
from scail2.request.animation import AnimationRequest
from scail2.request.names import first_name
from scail2.request.presets import preset
from scail2.segments import SegmentPlan
from scail2.video.images import notes_on_picture


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What will be rendered: pixels, frames a second, and the segments with their length and overlap."""

    height: int
    width: int
    fps: Fraction
    segments: SegmentPlan
    segment_frame_length: int
    overlap: int

    @property
    def total(self) -> int:
        """Output frames, equal to the driving frames used."""
        return self.segments.total

    @property
    def seconds(self) -> float:
        """Length of the output."""
        return float(self.total / self.fps)

    def pipeline_options(self) -> dict[str, int]:
        """What the plan decides of the arguments of `SCAIL2Pipeline.stream`."""
        return {
            "height": self.height,
            "width": self.width,
            "segment_frame_length": self.segment_frame_length,
            "prev_segment_conditioning_frames": self.overlap,
        }

    def identity(self) -> dict[str, Any]:
        """What masks are judged for; as earlier versions hashed it."""
        return {first_name(name): value for name, value in self.to_json().items()}

    def to_json(self) -> dict[str, Any]:
        """For plan.json and `scail2 plan --json`."""
        return {
            "height": self.height,
            "width": self.width,
            "fps": str(self.fps),
            "frames": self.total,
            "seconds": round(self.seconds, 3),
            "segment_frame_length": self.segment_frame_length,
            "overlap": self.overlap,
            "segments": [asdict(segment) for segment in self.segments],
        }


def plan_run(request: AnimationRequest, facts: ModelFacts, *, aspect: float, fps: Fraction, frames: int) -> RunPlan:
    """The plan of a run.

    Args:
        aspect: width / height of the driving video as shown.
        fps: its rate after resampling.
        frames: how many frames it has at that rate; ``request.frames`` cuts it.
    """
    height, width = choose_size(request, facts, aspect)
    total = min(frames, request.frames or frames)
    length = request.segment_frame_length or facts.segment_frame_length
    overlap = request.prev_segment_conditioning_frames or facts.prev_segment_conditioning_frames
    plan = SegmentPlan.of(total, segment_frame_length=length, overlap=overlap, equal=request.equal_segments)
    return RunPlan(height=height, width=width, fps=fps, segments=plan, segment_frame_length=length, overlap=overlap)


def choose_size(request: AnimationRequest, facts: ModelFacts, aspect: float) -> tuple[int, int]:
    """(height, width): as requested, or the model's native number of pixels in the driving video's aspect.

    A derived size is a multiple of the model's step and stays within its position range. A requested size is refused,
    naming the nearest good one, when it is not a multiple of the step.
    """
    step_h, step_w = facts.size_step
    height, width = request.height, request.width
    if height or width:
        if not height:
            height = max(1, round((width or 0) / aspect / step_h)) * step_h
        if not width:
            width = max(1, round(height * aspect / step_w)) * step_w
        near = max(1, round(height / step_h)) * step_h, max(1, round(width / step_w)) * step_w
        if near != (height, width):
            raise InputError(
                f"The size {width}x{height} (width x height) does not fit the model, whose steps are {step_w} and {step_h}; "
                f"the nearest that does is {near[1]}x{near[0]}."
            )
        return height, width
    area = facts.native_size[0] * facts.native_size[1]
    ideal_h, ideal_w = math.sqrt(area / aspect), math.sqrt(area * aspect)
    shrink = min(1.0, facts.largest_size[0] / ideal_h, facts.largest_size[1] / ideal_w)
    return _fit_step(ideal_h * shrink, step_h), _fit_step(ideal_w * shrink, step_w)


def _fit_step(pixels: float, step: int) -> int:
    return max(1, round(pixels / step)) * step


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
        names = ("preset", "guidance_scale", "shift", "solver", "num_inference_steps")
        given: dict[str, Any] = {name: getattr(request, name) for name in names}
        if request.preset is not None and not facts.has_loras:
            preset(request.preset).refuse_without_loras()
        settings = resolve_settings(facts.sampling, (plan.height, plan.width), **given)
        text = {"prompt": request.prompt, "negative_prompt": request.negative_prompt or None}
        if not facts.takes_text:
            if settings.guidance_scale != 1.0 and facts.sampling.guidance_scale is None:
                raise InputError("This model has no text to guide away from: use --guidance-scale 1.")
            text = dict.fromkeys(text)
        return cls(asked=given | text, settings=settings, scheduler=facts.sampling.scheduler)

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


def run_findings(request: AnimationRequest, facts: ModelFacts, plan: RunPlan) -> list[Finding]:
    """What there is to say about the reference pictures, the size, and what was asked and will not work as asked."""
    pictures = (request.reference, *request.additional_references)
    found = [each for path in pictures for each in findings.of_file(path.name, notes_on_picture(path))]
    if plan.height > facts.largest_size[0] or plan.width > facts.largest_size[1]:
        largest = f"{facts.largest_size[1]}x{facts.largest_size[0]}"
        found.append(
            findings.warning(
                "size",
                f"this model tells places of the film from those of its inputs up to {largest} (width x height); "
                f"at {plan.width}x{plan.height} they fall onto each other",
                f"render at {largest} at most, and enlarge the film",
            )
        )
    if request.frames and request.frames > plan.total:
        found.append(
            findings.info("length", f"{request.frames} frames were asked for; the driving video has {plan.total}")
        )
    found += [
        findings.warning("lora", remark, "take one trained on the video model alone if the text matters")
        for remark in facts.lora_remarks
    ]
    if request.prompt and not facts.takes_text:
        found.append(
            findings.warning(
                "prompt", "this model takes no text: the prompt is kept with the run but not used", "leave it out"
            )
        )
    found += _on_the_negative_prompt(request, facts, plan)
    return found


def _on_the_negative_prompt(request: AnimationRequest, facts: ModelFacts, plan: RunPlan) -> list[Finding]:
    if not request.negative_prompt:
        return []
    if not facts.takes_text:
        told, fix = "this model takes no text: the negative prompt is kept with the run but not used", "leave it out"
    elif not is_guided(SamplingChoice.of(request, facts, plan).settings, facts.sampling):
        told = "nothing is guided at a guidance scale of 1: the negative prompt is kept with the run but not used"
        fix = "give a --guidance-scale above 1, which takes twice the time, or leave it out"
    else:
        return []
    return [findings.warning("negative_prompt", told, fix)]


def is_guided(settings: SamplingSettings, model: SamplingDefaults) -> bool:
    """Whether there may be a pass with the negative prompt: guidance, or a guider of the model's own."""
    return settings.guidance_scale != 1.0 or model.guidance_scale is not None
