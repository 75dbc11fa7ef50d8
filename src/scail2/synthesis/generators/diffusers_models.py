"""What the generators that run through diffusers have in common: loading, naming what was loaded, pictures in and out."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scail2.checkpoints.downloads import local_path, refuse_absent
from scail2.checkpoints.folder_loading import check_components
from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.devices import find_device, wanted_dtype
from scail2.errors import InputError
from scail2.files.storage import digest
from scail2.segments import SegmentPlan
from scail2.synthesis.generators.protocol import Array, Clip, GenerationError, Motion
from scail2.video import resize_cover

_STEP, _SHORTEST = 16, 5
_INDICES = ("model_index.json", "modular_model_index.json")


def model_folder(model: str | Path) -> Path:
    """The folder of a pipeline in diffusers' format.

    Raises:
        InputError: there is none of that name, or it holds no pipeline.
    """
    refuse_absent(model)
    folder = local_path(model)
    if not any((folder / name).is_file() for name in _INDICES):
        raise InputError(f"{model} is no pipeline in diffusers' format: it holds no {' and no '.join(_INDICES)}.")
    return folder


def load_pipeline_of(kind: Any, model: str | Path, dtype: str, device: str, *, offload: bool) -> Any:
    """A pipeline of diffusers' class `kind`, on its device; its autoencoder always in float32.

    Raises:
        InputError: the folder is not there, is of another class, or lacks tensors.
    """
    import torch

    folder = model_folder(model)
    with no_loading_bars():
        pipeline = kind.from_pretrained(folder, dtype={"default": wanted_dtype(dtype, None), "vae": torch.float32})
    check_components(pipeline, folder)
    return placed(pipeline, device, offload=offload)


def placed(pipeline: Any, device: str, *, offload: bool) -> Any:
    """The pipeline on its device, whole or part by part, without bars of its own."""
    where = find_device(device)
    if offload and where.type != "cpu":
        pipeline.enable_model_cpu_offload(device=where)
    else:
        pipeline.to(where)
    if hasattr(pipeline, "set_progress_bar_config"):
        pipeline.set_progress_bar_config(disable=True)
    return pipeline


def described(name: str, model: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-able facts of a generator: settings, the model's files by name and size, the version of diffusers."""
    folder = model_folder(model)
    files = sorted(
        (path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob("*") if path.is_file()
    )
    known = {key: value for key, value in settings.items() if key != "model"}
    return {"generator": name, "model": folder.name, "files": digest(files), "diffusers": version("diffusers")} | known


def refuse_size(name: str, motion: Motion) -> None:
    """Raises InputError for clips that models of Wan's kind cannot make."""
    height, width = motion.clip.size
    if height % _STEP or width % _STEP:
        raise InputError(
            f"{motion.name} is {width}x{height}: {name} makes clips whose sides are multiples of {_STEP}, for example "
            f"{max(_STEP, width - width % _STEP)}x{max(_STEP, height - height % _STEP)}."
        )
    if len(motion.clip.frames) < _SHORTEST:
        raise InputError(f"{motion.name} has {len(motion.clip.frames)} frames: {name} makes at least {_SHORTEST}.")


def even_segments(frames: int, longest: int) -> int:
    """Length of the segments, all of one length and no longer than `longest`, that cover a clip with the least padding."""
    return SegmentPlan.of(frames, segment_frame_length=longest, overlap=1, equal=True)[0].padded_frames


def as_pictures(frames: Array) -> list[Image.Image]:
    """Frames uint8 (T, H, W, 3) as Pillow's pictures."""
    return [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]


def as_clip(frames: Array, motion: Motion) -> Clip:
    """Frames float (T, H, W, 3) in [0, 1] as a clip of the motion's length, rate and size.

    Raises:
        GenerationError: there are fewer than the motion has, or they hold what is no number.
    """
    count = len(motion.clip.frames)
    if len(frames) < count:
        raise GenerationError(f"The generator made {len(frames)} frames of {motion.name}, which has {count}.")
    if not np.isfinite(frames).all():
        raise GenerationError(f"The generator made frames of {motion.name} that are no numbers: try another precision.")
    pixels = np.rint(frames[:count].clip(0, 1) * 255).astype(np.uint8)
    return Clip(frames=resize_cover(pixels, *motion.clip.size), fps=motion.clip.fps)
