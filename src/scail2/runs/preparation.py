"""Everything before the first denoising step: hashes of the inputs, the model's facts, the plan, masks and preflight.

Each stage writes what it was made from into ``stages.json``; with the same inputs it is skipped.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.perception.tracks import MaskStore
from scail2.request import AnimationRequest, check_files
from scail2.runs.journal import Journal
from scail2.runs.masking import MaskTask, RunMasks, inspect_again, load_masks, make_masks, refuse_errors
from scail2.runs.model import ModelFacts, ModelHandle
from scail2.runs.planning import RunPlan, plan_run
from scail2.runs.sampling import SamplingChoice, sampling_findings
from scail2.runs.segment_store import hash_frames
from scail2.runs.sound import sound_findings, with_findings
from scail2.runs.storage import digest, hash_file, read_json, write_json
from scail2.video import FrameSource, VideoReader, read_image

INPUTS, STAGES, PLAN = "inputs.json", "stages.json", "plan.json"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What rendering needs; arrays are uint8, pictures (H, W, 3), masks in the palette.

    ``key`` is the hash of all of it that every segment shares: changing any of it makes every segment stale.
    """

    plan: RunPlan
    driving: FrameSource
    masks: RunMasks
    sampling: SamplingChoice
    facts: ModelFacts
    inputs: dict[str, str]
    report: dict[str, Any]
    key: str


class FirstFrames:
    """The first ``count`` frames of a video, as a `FrameSource`."""

    def __init__(self, source: VideoReader, count: int):
        self.source, self._count = source, count
        self.height, self.width, self.source_info = source.height, source.width, source.source_info
        self.source_indices = source.source_indices[:count]

    def __len__(self) -> int:
        return self._count

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop): uint8 (T, H, W, 3)."""
        if stop > self._count:
            raise IndexError(f"frames {start}:{stop} asked of the first {self._count}")
        return self.source.frames(start, stop)


class StageLedger:
    """Which stage was last made from what: ``stages.json``."""

    def __init__(self, folder: Path):
        self._path = folder / STAGES
        self._stages: dict[str, dict[str, Any]] = read_json(self._path) if self._path.exists() else {}

    def facts(self, stage: str, key: str) -> dict[str, Any] | None:
        """What was noted when the stage was made from these inputs; None when it was made from others or never."""
        entry = self._stages.get(stage)
        return entry if entry is not None and entry["key"] == key else None

    def record(self, stage: str, key: str, **facts: Any) -> None:
        """Notes that the stage is done for these inputs."""
        self._stages[stage] = {"key": key, **facts}
        write_json(self._path, self._stages)


def hash_inputs(request: AnimationRequest) -> dict[str, str]:
    """Content hashes of every given file, by the name it goes by in messages."""
    check_files(request)
    named = {"reference": request.reference, "driving": request.driving}
    for name in ("additional_references", "additional_masks", "reference_mask", "driving_mask"):
        named |= {f"{name}[{index}]": path for index, path in enumerate(getattr(request, name))}
    hashes = {name: hash_file(path) for name, path in named.items()}
    if request.masks:
        hashes["masks"] = MaskStore(request.masks).content_hash()
    return hashes


def changed_inputs(folder: Path, request: AnimationRequest) -> list[str]:
    """Names of the given files whose content is not what the run last used."""
    if not (folder / INPUTS).exists():
        return []
    known, now = read_json(folder / INPUTS), hash_inputs(request)
    return sorted(name for name in known.keys() | now.keys() if known.get(name) != now.get(name))


class Preparation:
    """Makes or reuses everything that rendering needs, in the run's folder."""

    def __init__(self, folder: Path, request: AnimationRequest, model: ModelHandle, journal: Journal):
        self.folder = folder
        self.request = request
        self.model = model
        self.journal = journal
        self.ledger = StageLedger(folder)

    def prepare(self) -> Prepared:
        """Runs the stages; raises `InputError` for anything that preflight or a stage refuses."""
        request = self.request
        inputs = hash_inputs(request)
        write_json(self.folder / INPUTS, inputs)
        read_image(request.reference)
        source = VideoReader(request.driving, fps=request.fps)
        aspect, fps, frames = source.width / source.height, source.fps, len(source)
        source.close()
        facts = self.model.facts(self.folder)
        plan = plan_run(request, facts, aspect=aspect, fps=fps, frames=frames)
        sampling = SamplingChoice.of(request, facts, plan)
        self._check_space(plan)
        size = (plan.height, plan.width)
        driving: Any = VideoReader(request.driving, fps=request.fps, size=size, fit=request.fit)
        info = driving.source_info
        if plan.total < len(driving):
            driving = FirstFrames(driving, plan.total)
        task = MaskTask(
            request=request,
            driving=driving,
            plan=plan,
            size_step=facts.size_step,
            source_fps=info.fps,
            sources=self._mask_sources(inputs, plan),
        )
        report = self._masks(task)
        masks = load_masks(self.folder / "masks", request.mode)
        found = [*sampling_findings(request, facts), *sound_findings(request, plan, info)]
        report = with_findings(report, found)
        self._write_plan(plan, sampling, facts, report)
        for finding in report["findings"]:
            self.journal.emit("finding", **finding)
        refuse_errors(report, self.folder / "masks")
        key = self._key(inputs, masks, plan, sampling, facts)
        return Prepared(
            plan=plan,
            driving=driving,
            masks=masks,
            sampling=sampling,
            facts=facts,
            inputs=inputs,
            report=report,
            key=key,
        )

    def _mask_sources(self, inputs: dict[str, str], plan: RunPlan) -> dict[str, str]:
        """Everything the masks depend on: files by hash, and settings."""
        names = ("mode", "bind", "reframe", "fit", "fix_polarity")
        settings = [str(getattr(self.request, name)) for name in names]
        shape = [plan.height, plan.width, str(plan.fps), plan.total]
        return inputs | {"settings": digest([settings, shape])}

    def _masks(self, task: MaskTask) -> dict[str, Any]:
        """The mask stage: kept, inspected again after edits, or made."""
        folder = self.folder / "masks"
        key = digest(task.sources)
        known = self.ledger.facts("masks", key)
        if known and (folder / "tracks.json").exists():
            content = MaskStore(folder).content_hash()
            inspected = digest([content, task.plan.to_json()])
            if known.get("inspected") == inspected:
                self.journal.emit("stage_skipped", stage="masks")
                return read_json(folder / "preflight.json")
            report = inspect_again(task, folder)
        else:
            self.journal.emit("stage_started", stage="masks")
            report = make_masks(task, folder, self._on_masks)
        content = MaskStore(folder).content_hash()
        inspected = digest([content, task.plan.to_json()])
        self.ledger.record("masks", key, inspected=inspected)
        self.journal.emit("stage_finished", stage="masks", folder=str(folder))
        return report

    def _on_masks(self, done: int, total: int) -> None:
        self.journal.emit("masks_progress", done=done, total=total)

    def _write_plan(self, plan: RunPlan, sampling: SamplingChoice, facts: ModelFacts, report: dict[str, Any]) -> None:
        values = plan.to_json() | {
            "mode": str(self.request.mode),
            "model": facts.name,
            "sampling": sampling.to_json(),
            "preflight": report,
            "contact_sheet": str(self.folder / "masks" / "contact_sheet.png"),
        }
        write_json(self.folder / PLAN, values)

    def _check_space(self, plan: RunPlan) -> None:
        """Refuses to start when not even one segment fits on the disk."""
        free = shutil.disk_usage(self.folder).free
        # Lossless frames compress to about half; the float history and a copy of the output come on top.
        need = plan.height * plan.width * 3 * (min(plan.total, plan.segment_frames) // 2 + 4 * plan.overlap)
        if free < need:
            raise InputError(
                f"The disk of {self.folder} has {free / 1e6:.1f} MB free, but one segment needs about {need / 1e6:.1f} MB; "
                "free some space or choose another --run-dir."
            )

    def _key(
        self, inputs: dict[str, str], masks: RunMasks, plan: RunPlan, sampling: SamplingChoice, facts: ModelFacts
    ) -> str:
        request = self.request
        pictures = (masks.reference, masks.reference_mask, *masks.additional, *masks.additional_masks)
        return digest(
            {
                "mode": str(request.mode),
                "driving": inputs["driving"],
                "pictures": [hash_pixels(each) for each in pictures],
                "shape": [plan.height, plan.width, str(plan.fps), str(request.fit)],
                "sampling": sampling.identity(),
                "model": facts.fingerprint,
                "black_out": not request.keep_reference_background,
                "drift_correction": str(request.drift_correction),
            }
        )


def hash_pixels(picture: np.ndarray) -> str:
    """SHA-256 of a uint8 picture (H, W, 3), shape included."""
    return hash_frames(picture[None])
