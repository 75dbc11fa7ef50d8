"""What a run takes on a machine, before it is rendered; and beside it what it took, which the calibration learns from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scail2.budget import calibration
from scail2.budget.choice import Budget, plan_budget
from scail2.budget.machines import GIB, Machine
from scail2.budget.requirements import Requirement, Workload, requirement
from scail2.budget.shapes import ModelShape
from scail2.errors import InputError
from scail2.loading.facts import ModelFacts
from scail2.loading.places import parse_lora
from scail2.pipeline.settings import SamplingSettings
from scail2.request.animation import AnimationRequest
from scail2.runs.masking import RefusedPlanError
from scail2.runs.planning import RunPlan
from scail2.runs.sealed import write_sealed
from scail2.runs.segment_record import SegmentRecord

BUDGET = "budget.json"
# What the pipeline times of a segment, under the names of the budget's stages.
STAGES = {"conditions": "encode", "denoise": "denoise", "decode": "decode"}


def budget_of(
    request: AnimationRequest,
    facts: ModelFacts,
    plan: RunPlan,
    settings: SamplingSettings,
    where: tuple[str, Path, Machine | None],
) -> Budget | None:
    """The budget of a run; None for a pipeline that was handed in, which is placed already.

    ``where`` is the device, the run's folder, and a machine to plan for instead of this one.
    """
    if facts.shape is None:
        return None
    device, folder, machine = where
    workload = job_of(request, facts, plan, settings, device.partition(":")[0])
    if machine is None:
        machine = calibration.measured_machine(device, folder, workload.itemsize)
    shape = facts.shape
    return plan_budget(
        shape, workload, machine, request.asked_placement, lambda each: calibration.corrected(each, machine.name, shape)
    )


def job_of(
    request: AnimationRequest, facts: ModelFacts, plan: RunPlan, settings: SamplingSettings, kind: str
) -> Workload:
    """What a run renders, in the words of a budget."""
    assert facts.shape is not None
    passes = 1 if settings.guidance_scale == 1.0 else 2
    return Workload(
        size=(plan.height, plan.width),
        segments=tuple(segment.padded_frames for segment in plan.segments),
        overlap=plan.overlap,
        steps=settings.steps,
        passes=passes,
        itemsize=_itemsize(request, facts, kind),
        prompts=passes,
        additional_references=len(request.additional_references),
        attention=request.attention,
        compiled=request.compile,
        cache=request.cache,
        lora_bytes=sum(parse_lora(each)[0].stat().st_size for each in request.lora),
    )


def _most_main_memory() -> float:
    """Bytes of main memory that this process had at its highest, whatever it did before the run."""
    import psutil

    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().rss)
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def _most_device_memory() -> float | None:
    """Bytes that PyTorch had of a CUDA device at its highest; None where it used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return float(torch.cuda.max_memory_allocated()) or None


def _itemsize(request: AnimationRequest, facts: ModelFacts, kind: str) -> int:
    """Bytes of a number in the type that is computed in: the one that is asked for, or as stored."""
    assert facts.shape is not None
    stored = facts.shape.transformer.weights.format
    named = request.dtype or facts.unasked_dtype
    if named in (None, "stored"):
        named = "float32" if stored == "float32" or (stored == "float16" and kind == "cpu") else "bfloat16"
    return 4 if named == "float32" else 2


def refuse_unfit(budget: Budget | None, plan: Callable[[], dict[str, Any]]) -> None:
    """Raises `RefusedPlanError` where no placement fits the machine, naming the nearest settings that do.

    ``plan`` writes what is known until then, and returns it.
    """
    try:
        if budget is not None:
            budget.refuse()
    except InputError as error:
        raise RefusedPlanError(str(error), plan()) from error


def note_outcome(
    folder: Path, budget: Budget | None, shape: ModelShape | None, rendered: Iterable[SegmentRecord]
) -> dict[str, Any] | None:
    """Writes what a run took beside what was predicted of the same segments, and lets the calibration learn from it.

    Nothing is learned of steps that are compiled, skipped or given to another kernel: what that saves says nothing of the
    plain run.
    """
    records = list(rendered)
    if budget is None or budget.chosen is None or shape is None or not records:
        return None
    workload = budget.workload.only(sorted(record.index for record in records))
    needs = requirement(shape, workload, budget.chosen.placement, budget.machine)
    expected = calibration.corrected(needs, budget.machine.name, shape).seconds
    measured: dict[str, float] = {}
    for record in records:
        for timed, stage in STAGES.items():
            measured[stage] = measured.get(stage, 0.0) + record.timings.get(timed, 0.0)
    predicted = {stage: expected[stage] for stage in measured}
    outcome = {
        "machine": budget.machine.name,
        "segments": [record.index for record in records],
        "placement": budget.chosen.placement.to_json(),
        "stages": {stage: _beside(predicted[stage], seconds) for stage, seconds in measured.items()},
        "total": _beside(sum(predicted.values()), sum(measured.values())),
        "memory": _memory(budget.chosen),
    }
    write_sealed(folder / BUDGET, outcome)
    taught = {stage: seconds for stage, seconds in measured.items() if workload.is_plain or stage != "denoise"}
    calibration.learn(budget.machine.name, shape, predicted, taught)
    return outcome


def _beside(predicted: float, measured: float) -> dict[str, float]:
    return {"predicted_seconds": round(predicted, 3), "measured_seconds": round(measured, 3)}


def _memory(chosen: Requirement) -> dict[str, dict[str, float]]:
    """GiB at their highest, predicted and measured, of main memory and of a device that was used."""
    memory = {"main_memory_gib": (chosen.main_bytes, _most_main_memory())}
    if (used := _most_device_memory()) is not None:
        memory["device_gib"] = (chosen.peak, used)
    return {
        name: {"predicted": round(expected / GIB, 3), "measured": round(most / GIB, 3)}
        for name, (expected, most) in memory.items()
    }
