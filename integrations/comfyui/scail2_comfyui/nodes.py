"""The nodes: load a model, find masks, plan, render. Values are checked here, because they may come over HTTP unchecked.

Everything goes through run directories under ComfyUI's output folder: the same inputs and settings find their masks and
finished segments again, and `scail2 status`, `resume` and `rerender` work on them from a terminal.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from scail2 import AnimationRequest, InputError, RunDirectory, VideoReader, read_image

from .host import Listener, runs_folder
from .images import load_video, rate, store_picture, store_video, to_image

CATEGORY = "SCAIL-2"
MODES = ("animation", "replacement")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
ModelIO = io.Custom("SCAIL2_MODEL")
JobIO = io.Custom("SCAIL2_JOB")


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model renders; loaded by the run that needs it."""

    model: str | None
    dtype: str | None
    lora: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run directory and its request."""

    run: Path
    request: AnimationRequest


def one_of(value: str, allowed: tuple[str, ...], name: str) -> str:
    """``value`` if it is allowed. Raises `InputError` with the list."""
    if value not in allowed:
        raise InputError(f"{name} is one of {', '.join(allowed)}, not {value!r}.")
    return value


class Scail2LoadModel(io.ComfyNode):
    """Chooses the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Scail2LoadModel",
            display_name="SCAIL-2 model",
            category=CATEGORY,
            description="A folder, file or name of `scail2 models`; empty is the small embedded model.",
            inputs=[
                io.String.Input("model", default="", tooltip="Folder, file or name of `scail2 models`."),
                io.Combo.Input("dtype", options=list(PRECISIONS), default="auto"),
                io.String.Input("lora", default="", multiline=True, tooltip="PATH or PATH:STRENGTH, one a line."),
            ],
            outputs=[ModelIO.Output("MODEL")],
        )

    @classmethod
    def execute(cls, model: str, dtype: str, lora: str) -> io.NodeOutput:
        precision = one_of(dtype, PRECISIONS, "dtype")
        loras = tuple(line.strip() for line in lora.splitlines() if line.strip())
        return io.NodeOutput(
            ModelChoice(model=model.strip() or None, dtype=None if precision == "auto" else precision, lora=loras)
        )


class Scail2Masks(io.ComfyNode):
    """Picture and clip in, coloured masks out; given masks are checked and taken."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Scail2Masks",
            display_name="SCAIL-2 masks",
            category=CATEGORY,
            description="Finds who is who in picture and clip. Coloured masks that are given are checked and taken instead.",
            inputs=[
                ModelIO.Input("model"),
                io.Image.Input("reference", tooltip="Picture of the character(s)."),
                io.Image.Input("driving", tooltip="Frames whose motion is followed."),
                io.Float.Input("fps", default=16.0, min=1.0, max=240.0, step=0.001),
                io.Combo.Input("mode", options=list(MODES), default="animation"),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1),
                io.String.Input("name", default="film", tooltip="Name of the run's folder."),
                io.String.Input("settings", default="{}", multiline=True, tooltip="Further request fields as JSON."),
                io.Image.Input("reference_mask", optional=True),
                io.Image.Input("driving_mask", optional=True),
            ],
            outputs=[JobIO.Output("JOB"), io.Image.Output("REFERENCE_MASK"), io.Image.Output("DRIVING_MASK")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelChoice,
        reference: torch.Tensor,
        driving: torch.Tensor,
        fps: float,
        mode: str,
        seed: int,
        name: str,
        settings: str,
        reference_mask: torch.Tensor | None = None,
        driving_mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        inputs, frames = runs_folder() / "inputs", rate(fps)
        given: dict[str, Any] = {
            "mode": one_of(mode, MODES, "mode"),
            "reference": store_picture(reference, inputs, "reference"),
            "driving": store_video(driving, frames, inputs, "driving"),
            "seed": seed,
            "model": model.model,
            "dtype": model.dtype,
            "lora": model.lora,
        }
        if reference_mask is not None:
            given["reference_mask"] = [store_picture(reference_mask, inputs, "reference_mask")]
        if driving_mask is not None:
            given["driving_mask"] = [store_video(driving_mask, frames, inputs, "driving_mask")]
        job = make_job(name, given, settings)
        run = RunDirectory.create(job.run, job.request)
        run.plan(events=Listener())
        masks = job.run / "masks"
        still = to_image(read_image(masks / "reference_mask.png")[None, ..., :3])
        return io.NodeOutput(job, still, load_video(masks / "driving_mask.mkv"))


class Scail2Plan(io.ComfyNode):
    """What will be rendered, before anything is spent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Scail2Plan",
            display_name="SCAIL-2 plan",
            category=CATEGORY,
            description="Size, segments and everything that preflight found, as JSON.",
            inputs=[JobIO.Input("job")],
            outputs=[io.String.Output("PLAN")],
        )

    @classmethod
    def execute(cls, job: Job) -> io.NodeOutput:
        told = json.loads((job.run / "plan.json").read_text())
        told.pop("seal", None)
        return io.NodeOutput(json.dumps(told, indent=1))


class Scail2Render(io.ComfyNode):
    """Renders what is missing of a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Scail2Render",
            display_name="SCAIL-2 render",
            category=CATEGORY,
            description="Renders segment after segment; finished ones are taken from the run's folder.",
            inputs=[
                JobIO.Input("job"),
                io.Int.Input("rerender", default=-1, min=-1, max=10**6, tooltip="This segment again; -1 for none."),
                io.Int.Input("rerender_seed", default=-1, min=-1, max=2**63 - 1, tooltip="Its noise; -1 keeps it."),
            ],
            outputs=[io.Image.Output("FRAMES"), io.String.Output("RUN"), io.String.Output("FILM")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, job: Job, rerender: int, rerender_seed: int) -> io.NodeOutput:
        run = RunDirectory.create(job.run, job.request)
        listener = Listener()
        film = run.execute(events=listener)
        if rerender >= 0:
            seed = None if rerender_seed < 0 else rerender_seed
            film = run.rerender(rerender, seed=seed, events=listener)
        reader = VideoReader(film)
        return io.NodeOutput(to_image(reader.frames(0, len(reader))), str(job.run), str(film))


# Where the film lies and how it is coded is the node's: what the next node gets is what was rendered.
_OWN_FIELDS = frozenset({"output", "codec"})


def make_job(name: str, given: dict[str, Any], settings: str) -> Job:
    """A job in a folder of its own. ``settings`` are further fields of `AnimationRequest` as a JSON object."""
    if not name or not all(each.isalnum() or each in "-_" for each in name):
        raise InputError(f"name is made of letters, digits, - and _, not {name!r}.")
    try:
        more = json.loads(settings or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"settings must be a JSON object: {error}.") from error
    if not isinstance(more, dict) or more.keys() & (given.keys() | _OWN_FIELDS):
        raise InputError(
            "settings must be a JSON object of fields that the node has no input for, "
            "without output and codec: the film stays lossless for the next node."
        )
    place = runs_folder() / name
    request = AnimationRequest.from_settings(given | more | {"output": place.with_suffix(".mkv"), "codec": "ffv1"})
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:8]
    return Job(run=place.with_name(f"{name}-{digest}.run"), request=request)


NODES = (Scail2LoadModel, Scail2Masks, Scail2Plan, Scail2Render)
