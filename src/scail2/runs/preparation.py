"""Everything before the first denoising step: hashes of the inputs, the model's facts, the plan, masks and preflight.

Each stage writes what it was made from into ``stages.json``; with the same inputs it is skipped.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scail2.budget.choice import Budget
from scail2.budget.machines import Machine
from scail2.errors import InputError
from scail2.files.documents import DocumentError
from scail2.files.storage import digest, free_bytes, hash_file, is_present
from scail2.loading.facts import ModelFacts
from scail2.perception.driving_video import DrivingVideo, hash_driving
from scail2.perception.stage import REPORT, SHEET, StoredMasks, load_masks
from scail2.perception.store import MaskStore
from scail2.request.animation import AnimationRequest
from scail2.request.masks import check_files
from scail2.request.names import first_name, present_name
from scail2.request.placement import WeightStorage
from scail2.request.speed import Magnitudes
from scail2.runs.budgeting import budget_of, refuse_unfit
from scail2.runs.film import check_place
from scail2.runs.journal import Journal
from scail2.runs.ledger import StageLedger
from scail2.runs.masking import (
    derived_hashes,
    inspect_again,
    read_report,
    refuse_errors,
    replace_masks,
)
from scail2.runs.model import ModelHandle
from scail2.runs.planning import RunPlan, SamplingChoice, plan_run, run_findings
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.segment_store import hash_frames
from scail2.runs.sound import sound_findings, with_findings
from scail2.video import FrameSource, SizedFrames, VideoReader, first_frames, read_image
from scail2.video.kept import KeptFrames

_ASKED = ("sam3", "text", "points", "boxes", "reference_points", "reference_boxes", "characters", "accept_mask")
INPUTS, PLAN = "inputs.json", "plan.json"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What rendering needs; arrays are uint8, pictures (H, W, 3), masks in the palette.

    ``key`` is the hash of all of it that every segment shares: changing any of it makes every segment stale.
    """

    plan: RunPlan
    driving: FrameSource
    masks: StoredMasks
    sampling: SamplingChoice
    facts: ModelFacts
    inputs: dict[str, str]
    report: dict[str, Any]
    key: str
    budget: Budget | None = None


def hash_inputs(request: AnimationRequest) -> dict[str, str]:
    """Content hashes of every given file, by the setting that names it (as it was called first) and its place there."""
    check_files(request)
    named = {"reference": request.reference, "driving": request.driving}
    for name in ("additional_references", "additional_reference_masks", "reference_mask", "driving_mask"):
        named |= {f"{first_name(name)}[{index}]": path for index, path in enumerate(getattr(request, name))}
    hashes = {name: hash_file(path) for name, path in named.items() if name != "driving"}
    hashes["driving"] = hash_driving(request)
    if isinstance(request.audio, Path):
        hashes["audio"] = hash_file(request.audio)
    if request.masks:
        hashes["masks"] = MaskStore(request.masks).content_hash()
    return hashes


def changed_inputs(folder: Path, request: AnimationRequest) -> list[str]:
    """Names of the given files whose content is not what the run last used."""
    if not is_present(folder / INPUTS):
        return []
    try:
        known, now = read_sealed(folder / INPUTS, dict[str, str]), hash_inputs(request)
    except DocumentError as error:
        raise DocumentError(
            f"{error} It said which files the run began with; give the run's own command again with --run-dir {folder} to "
            "go on with the present ones."
        ) from error
    changed = sorted(name for name in known.keys() | now.keys() if known.get(name) != now.get(name))
    return [present_name(name.partition("[")[0]) + "".join(name.partition("[")[1:]) for name in changed]


class Preparation:
    """Makes or reuses everything that rendering needs, in the run's folder."""

    def __init__(self, folder: Path, request: AnimationRequest, model: ModelHandle, journal: Journal):
        self.folder = folder
        self.request = request
        self.model = model
        self.journal = journal
        self.ledger = StageLedger(folder)
        self.machine: Machine | None = None

    def prepare(self) -> Prepared:
        """Runs the stages; raises `InputError` for anything that preflight or a stage refuses."""
        request = self.request
        inputs = hash_inputs(request)
        write_sealed(self.folder / INPUTS, inputs)
        read_image(request.reference)
        source = VideoReader(request.driving, fps=request.fps)
        aspect, fps, frames = source.width / source.height, source.fps, len(source)
        source.close()
        facts = self.model.facts(self.folder)
        if self.machine is None:  # another machine may have measured, or have installed, what this one has not
            self.model.check_settings()
        plan = plan_run(request, facts, aspect=aspect, fps=fps, frames=frames)
        sampling = SamplingChoice.of(request, facts, plan)
        self._check_space(plan)
        check_place(request, plan)
        size = (plan.height, plan.width)
        reader = VideoReader(request.driving, fps=request.fps, size=size, fit=request.fit)
        info = reader.source_info
        found = [*run_findings(request, facts, plan), *sound_findings(request, plan, info)]
        budget = budget_of(request, facts, plan, sampling.settings, (self.model.device_name, self.folder, self.machine))
        # Masks may take minutes, and memory of their own.
        unseen = with_findings({"ok": False, "facts": {}, "findings": []}, found)
        refuse_unfit(budget, lambda: self._write_plan(plan, sampling, facts, unseen, budget))
        driving = KeptFrames(first_frames(reader, plan.total), self.folder)

        def enlarged(larger: tuple[int, int]) -> SizedFrames:
            again = VideoReader(request.driving, fps=request.fps, size=larger, fit=request.fit)
            return first_frames(again, plan.total)

        video = DrivingVideo(
            frames=driving,
            enlarged=enlarged,
            fps=plan.fps,
            source_fps=info.fps,
            segments=plan.segments,
            size_step=facts.size_step,
        )
        report = self._masks(video, self._mask_sources(inputs, plan), plan)
        masks = load_masks(self.folder / "masks", request.mode)
        masks = replace(masks, driving_mask=KeptFrames(masks.driving_mask, self.folder))
        report = with_findings(report, found)
        values = self._write_plan(plan, sampling, facts, report, budget)
        for finding in report["findings"]:
            self.journal.emit("finding", **finding)
        refuse_errors(values)
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
            budget=budget,
        )

    def _mask_sources(self, inputs: dict[str, str], plan: RunPlan) -> dict[str, str]:
        """Everything the masks depend on: files by hash, and settings."""
        names = ("mode", "bind", "reframe", "fit", "fix_polarity")
        settings = [str(getattr(self.request, name)) for name in names]
        # Not among them where nothing was asked, so that masks made before they could be asked for are kept.
        asked = {name: getattr(self.request, name) for name in _ASKED if getattr(self.request, name)}
        shape = [plan.height, plan.width, str(plan.fps), plan.total]
        files = {name: each for name, each in inputs.items() if name != "audio"}  # nobody is seen in a soundtrack
        return files | {"settings": digest([settings, shape, asked] if asked else [settings, shape])}

    def _masks(self, driving: DrivingVideo, sources: Mapping[str, str], plan: RunPlan) -> dict[str, Any]:
        """The mask stage: kept, inspected again after edits, or made."""
        folder = self.folder / "masks"
        key = digest(sources)
        known = self.ledger.facts("masks", key)
        if known and is_present(folder / "tracks.json"):
            report = self._kept_masks(plan, folder, known)
            if report is not None:
                if "derived" not in known:  # a run of an earlier version: from now on its pictures are watched
                    self.ledger.record("masks", key, inspected=known["inspected"], derived=derived_hashes(folder))
                self.journal.emit("stage_skipped", stage="masks")
                return report
            with _way_out(folder):
                report = inspect_again(self.request.mode, driving, folder)
            self._note_masks(plan, key, folder)
        else:
            self.journal.emit("stage_started", stage="masks")
            report = replace_masks(
                self.request,
                driving,
                folder,
                sources=sources,
                progress=self._on_masks,
                announce=lambda made: self._note_masks(plan, key, made),
            )
        self.journal.emit("stage_finished", stage="masks", folder=str(folder))
        return report

    def _note_masks(self, plan: RunPlan, key: str, folder: Path) -> None:
        """Notes what the stage made, in the run's folder or in the one that is about to become it."""
        facts = {"inspected": _inspected(plan, folder), "derived": derived_hashes(folder)}
        self.ledger.record("masks", key, **facts)

    def _kept_masks(self, plan: RunPlan, folder: Path, known: dict[str, Any]) -> dict[str, Any] | None:
        """The report of masks that are as they were; None where they must be inspected again.

        The masks themselves may be painted on. Everything else in the folder is the stage's own: what a segment is
        rendered from must be what was made, and what was only found out can be found out again.
        """
        with _way_out(folder):
            derived, made = derived_hashes(folder), known.get("derived")
            if isinstance(made, dict):
                changed = sorted(name for name in derived.keys() | made.keys() if derived.get(name) != made.get(name))
                if lost := [name for name in changed if name not in (REPORT, SHEET)]:
                    raise InputError(f"{folder / lost[0]} is not what this run made.")
            else:  # a run of an earlier version
                changed = []
            if known.get("inspected") != _inspected(plan, folder):
                self.journal.emit(
                    "note", message=f"The masks in {folder} or the plan have changed; they are judged anew."
                )
                return None
            return None if changed else read_report(folder)

    def _on_masks(self, done: int, total: int) -> None:
        self.journal.emit("masks_progress", done=done, total=total)

    def _write_plan(
        self, plan: RunPlan, sampling: SamplingChoice, facts: ModelFacts, report: dict[str, Any], budget: Budget | None
    ) -> dict[str, Any]:
        values = plan.to_json() | {
            "mode": str(self.request.mode),
            "model": facts.name,
            "sampling": sampling.to_json(),
            "preflight": report,
            "budget": None if budget is None else budget.to_json(),
            "contact_sheet": str(self.folder / "masks" / "contact_sheet.png"),
        }
        write_sealed(self.folder / PLAN, values)
        return values

    def _check_space(self, plan: RunPlan) -> None:
        """Refuses to start when not even one segment fits on the disk."""
        free = free_bytes(self.folder)
        # Lossless frames compress to about half; the float history and a copy of the output come on top.
        need = plan.height * plan.width * 3 * (min(plan.total, plan.segment_frame_length) // 2 + 4 * plan.overlap)
        if free < need:
            raise InputError(
                f"The disk of {self.folder} has {free / 1e6:.1f} MB free, but one segment needs about {need / 1e6:.1f} MB; "
                "free some space or choose another --run-dir."
            )

    def _magnitudes(self) -> Magnitudes | None:
        """What the step cache decides with; also None where only another machine, which is planned for, has measured it."""
        with suppress(InputError):
            return self.model.magnitudes
        return None

    def _key(
        self, inputs: dict[str, str], masks: StoredMasks, plan: RunPlan, sampling: SamplingChoice, facts: ModelFacts
    ) -> str:
        request = self.request
        pictures = (
            masks.reference,
            masks.reference_mask,
            *masks.additional_references,
            *masks.additional_reference_masks,
        )
        return digest(
            {
                "mode": str(request.mode),
                "driving": inputs["driving"],
                "pictures": [hash_pixels(each) for each in pictures],
                "shape": [plan.height, plan.width, str(plan.fps), str(request.fit)],
                "sampling": sampling.identity(),
                "model": facts.fingerprint,
                "black_out": request.black_out_reference,
                "drift_correction": str(request.drift_correction),
            }
            | ({"inexact": changed} if (changed := inexact(request, self._magnitudes())) else {})
        )


def inexact(request: AnimationRequest, magnitudes: Magnitudes | None = None) -> dict[str, str]:
    """What of a request makes a model compute something else than it would; kept out of keys where nothing does.

    ``magnitudes`` are those that its step cache decides with.
    """
    lossy = request.weights in (WeightStorage.FP8, WeightStorage.INT8, WeightStorage.NF4)
    weights = {"weights": str(request.weights)} if lossy else {}
    measured = {"magnitudes": digest(asdict(magnitudes))} if magnitudes is not None else {}
    return request.speed.inexact() | measured | weights | ({"vae": "bfloat16"} if request.vae_bf16 else {})


def hash_pixels(picture: np.ndarray) -> str:
    """SHA-256 of a uint8 picture (H, W, 3), shape included."""
    return hash_frames(picture[None])


def _inspected(plan: RunPlan, folder: Path) -> str:
    """Hash of what preflight judges: the masks as they are now, and the plan."""
    return digest([MaskStore(folder).content_hash(), plan.identity()])


@contextmanager
def _way_out(folder: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        told = str(error).rstrip(".")
        raise InputError(f"{told}. Put it right, or delete {folder} to have everything in it made again.") from error
