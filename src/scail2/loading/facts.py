"""What there is to know of a model before it is loaded: its configurations, the headers of its files, a few of their numbers.

`ModelFacts` are what a run plans with. They identify a model by its content, however it is stored, without reading it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scail2.budget.shapes import (
    AutoencoderShape,
    ImageEncoderShape,
    ModelShape,
    TextEncoderShape,
    TransformerShape,
    Weights,
    parameter_shapes,
)
from scail2.checkpoints import official_names as names
from scail2.checkpoints.adapter_words import AdapterWords, read_adapter_words
from scail2.checkpoints.dialects import view_transformer
from scail2.checkpoints.encoders import open_image_encoder, open_text_encoder, open_vae
from scail2.checkpoints.lora_files import LoraReport, open_lora
from scail2.checkpoints.model_folder import check_pipeline, read_config, refuse_counts
from scail2.checkpoints.stored import TensorFile
from scail2.checkpoints.tensor_files import GgufFile, open_tensor_file, total_bytes
from scail2.checkpoints.transformer_config import diffusers_folder, resolve_config
from scail2.checkpoints.views import View, compare, plain_view
from scail2.errors import InputError
from scail2.files.documents import decode, load_json
from scail2.loading.component_files import ComponentFiles, check_companions, find_components
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.pipeline.settings import SamplingDefaults, configured_shift
from scail2.request.presets import preset

# How fingerprints of files begin: others are hashes of a loaded pipeline.
FROM_FILES = "files-"
# Of every tensor so many numbers, in so many places, tell any two checkpoints apart.
_PLACES, _RUN = 4, 128
LARGEST_SIDE = 8192
# Channels of a patch transform whose configuration does not say.
_PATCH_CHANNELS = 64
# What of a scheduler's configuration changes how it samples a flow, and what loose files are sampled with.
_SCHEDULE_WORDS = (
    "flow_shift", "shift", "num_train_timesteps", "prediction_type", "solver_order", "final_sigmas_type", "algorithm_type",
    "solver_type", "use_flow_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas",
    "use_dynamic_shifting", "stochastic_sampling", "shift_terminal", "invert_sigmas",
)  # fmt: skip
_LOOSE_SCHEDULE = {
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "final_sigmas_type": "zero",
    "solver_type": "bh2",
    "use_flow_sigmas": True,
}
# Shifts of diffusers' schedulers whose configuration does not say.
_SHIFTS = {
    "UniPCMultistepScheduler": {"flow_shift": 1.0},
    "DPMSolverMultistepScheduler": {"flow_shift": 1.0},
    "FlowMatchEulerDiscreteScheduler": {"shift": 1.0},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What planning needs to know of a model, kept in the run so that planning needs no weights.

    ``fingerprint`` is of the content of the model and its LoRAs, ``files`` of its files' names and times, ``other_files`` of
    those that are no encoder's, and ``encoder_files`` of each of those that are. ``unasked_dtype``
    is the number format the model is loaded in where the request names none, which another machine might choose
    differently: ``stored`` for each network's own; None where the request names it, and in older runs. ``shape`` is None
    in runs of earlier versions and for pipelines that were handed in.
    """

    name: str
    fingerprint: str
    size_step: tuple[int, int]
    native_size: tuple[int, int]
    largest_size: tuple[int, int]
    segment_frame_length: int
    prev_segment_conditioning_frames: int
    sampling: SamplingDefaults
    takes_text: bool
    has_loras: bool
    files: str = ""
    unasked_dtype: str | None = None
    other_files: str = ""
    encoder_files: tuple[str, ...] = ()
    lora_remarks: tuple[str, ...] = ()
    shape: ModelShape | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredModel:
    """A model on this disk: its networks' tensors under the names of their classes, and what its configurations say."""

    networks: Mapping[str, View]
    shape: ModelShape
    sampling: SamplingDefaults
    words: Mapping[str, Any]
    scheduler: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Words:
    """What ``model_index.json`` says of a pipeline beside its components."""

    default_preset: str = "quality"
    segment_frame_length: int = 81
    prev_segment_conditioning_frames: int = 5
    native_height: int = 512
    native_width: int = 896


def size_step(shape: ModelShape) -> tuple[int, int]:
    """Height and width of a video must be multiples of these two numbers."""
    scale = shape.autoencoder.scale_factor_spatial * shape.transformer.driving_downsample
    return scale * shape.transformer.patch_size[1], scale * shape.transformer.patch_size[2]


def largest_size(shape: ModelShape) -> tuple[int, int]:
    """(height, width) beyond which the driving tokens would sit on the video's own positions."""
    transformer, scale = shape.transformer, shape.autoencoder.scale_factor_spatial
    height = transformer.rope_reference_height_shift * transformer.patch_size[1] * scale
    width = transformer.rope_driving_width_shift * transformer.patch_size[2] * scale
    return height or LARGEST_SIDE, width or LARGEST_SIDE


def stored_facts(
    path: Path, *, name: str, loras: Iterable[tuple[Path, float]] = (), precision: str | None = None
) -> ModelFacts:
    """The facts of a model on this disk.

    Args:
        path: what `scail2.load_pipeline` would load: a pipeline folder, a transformer file, a folder of public files.
        loras: files and strengths that will be fused into it.
        precision: the type it will be loaded in; None keeps what is stored.

    Raises:
        InputError: what loading it would refuse, as far as names, shapes and configurations show it.
    """
    model = open_model(path)
    fused = list(loras)
    reports = [_lora_report(lora, model.shape.transformer) for lora, _ in fused]
    index = model.words
    return ModelFacts(
        name=name,
        fingerprint=FROM_FILES + _fingerprint(model, fused, precision),
        native_size=(index["native_height"], index["native_width"]),
        segment_frame_length=index["segment_frame_length"],
        prev_segment_conditioning_frames=index["prev_segment_conditioning_frames"],
        sampling=model.sampling,
        takes_text=model.shape.transformer.text_dim is not None,
        has_loras=bool(fused),
        lora_remarks=tuple(
            told
            for (lora, _), report in zip(fused, reports, strict=True)
            if (told := report.told_passed_over(lora.name))
        ),
        shape=model.shape,
        size_step=size_step(model.shape),
        largest_size=largest_size(model.shape),
    )


def open_model(path: Path) -> StoredModel:
    """Opens a model's files without reading its weights; arguments and errors as in `stored_facts`."""
    return _open_folder(path) if (path / "model_index.json").is_file() else _open_files(path)


# ---- a pipeline folder --------------------------------------------------------------------------------------------


def _open_folder(folder: Path) -> StoredModel:
    classes = check_pipeline(folder)
    index = load_json(folder / "model_index.json", dict[str, Any])
    known = {key: index[key] for key in _Words.__dataclass_fields__ if key in index}
    words = asdict(decode(known, _Words, folder / "model_index.json"))
    present = {name for name, (_, kind) in classes.items() if kind is not None}
    transformer, shape = _open_transformer(folder / "transformer", read_config(folder / "transformer"))
    autoencoder, autoencoder_shape = _open_autoencoder(folder / "vae")
    networks = {"transformer": transformer, "vae": autoencoder}
    text = image = None
    if "text_encoder" in present:
        networks["text_encoder"], text = _open_text_encoder(folder / "text_encoder")
    if "image_encoder" in present:
        networks["image_encoder"], image = _open_image_encoder(folder / "image_encoder")
    kind = classes["scheduler"][1] or ""
    scheduler = _scheduler_config(folder / "scheduler" / "scheduler_config.json", kind)
    guidance = _guidance(folder / "guider") if "guider" in present else None
    sampling = SamplingDefaults(
        preset=words["default_preset"], scheduler=kind, shift=configured_shift(scheduler), guidance_scale=guidance
    )
    whole = ModelShape(transformer=shape, autoencoder=autoencoder_shape, text_encoder=text, image_encoder=image)
    return StoredModel(networks=networks, shape=whole, sampling=sampling, words=words, scheduler=scheduler)


def _scheduler_config(path: Path, kind: str) -> dict[str, Any]:
    content = load_json(path, dict[str, Any]) if path.is_file() else {}
    return _SHIFTS.get(kind, {}) | {key: value for key, value in content.items() if not key.startswith("_")}


def _guidance(folder: Path) -> float | None:
    """The scale of a guider component, where its configuration has one."""
    found = [load_json(each, dict[str, Any]) for each in sorted(folder.glob("*config.json"))]
    return next((float(each["guidance_scale"]) for each in found if each.get("guidance_scale") is not None), None)


# ---- loose files --------------------------------------------------------------------------------------------------


def _open_files(path: Path) -> StoredModel:
    if (folder := diffusers_folder(path)) is not None:
        raise InputError(f"{folder} is a transformer alone: name a pipeline folder (with model_index.json).")
    files: ComponentFiles = find_components(path)
    check_companions(files)
    transformer, shape = _open_transformer(files.transformer, None)
    shape = replace(shape, weights=replace(shape.weights, single_file=True))
    networks, text, image = {"transformer": transformer}, None, None
    networks["vae"], autoencoder = _open_autoencoder(files.vae)
    if files.text_encoder is not None:
        networks["text_encoder"], text = _open_text_encoder(files.text_encoder)
    if files.image_encoder is not None:
        networks["image_encoder"], image = _open_image_encoder(files.image_encoder)
    shift = preset("quality").shift
    sampling = SamplingDefaults(preset="quality", scheduler="UniPCMultistepScheduler", shift=shift)
    return StoredModel(
        networks=networks,
        shape=ModelShape(transformer=shape, autoencoder=autoencoder, text_encoder=text, image_encoder=image),
        sampling=sampling,
        words=asdict(_Words()),
        scheduler=_LOOSE_SCHEDULE | {"flow_shift": shift},
    )


# ---- networks -----------------------------------------------------------------------------------------------------


def _weights(file: TensorFile) -> Weights:
    infos = file.tensors.values()
    sizes: dict[str, int] = {}
    for each in infos:
        sizes[each.number or each.format] = sizes.get(each.number or each.format, 0) + each.nbytes
    form = "GGUF" if isinstance(file, GgufFile) else max(sizes, key=lambda number: sizes[number])
    return Weights(parameters=sum(each.count for each in infos), nbytes=total_bytes(infos), format=form)


def _open_transformer(path: Path, config: Mapping[str, Any] | None) -> tuple[View, TransformerShape]:
    view = view_transformer(open_tensor_file(path))
    words = resolve_config(view) if config is None else config
    refuse_counts(words, len(view.shapes), f"The configuration of {view.file.path}")
    shape = replace(
        decode(words, TransformerShape, f"the configuration of {path}", unknown=True), weights=_weights(view.file)
    )
    wanted = {names.to_official_name(name): sizes for name, sizes in parameter_shapes(shape).items()}
    compare(view, wanted, "a SCAIL-2 transformer of its configuration")
    return view, shape


def _open_autoencoder(path: Path | None) -> tuple[View, AutoencoderShape]:
    assert path is not None  # `check_companions` refused that
    config = read_config(path) if path.is_dir() else {}
    open_kind = _open_patch_transform if config.get("_class_name") == "AutoencoderPatchTransform" else _open_wan_vae
    view, shape = open_kind(path, config)
    return view, replace(shape, weights=_weights(view.file))


def _scales(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("scale_factor_spatial", "scale_factor_temporal") if config.get(name)}


def _open_wan_vae(path: Path, config: Mapping[str, Any]) -> tuple[View, AutoencoderShape]:
    view, shown = open_vae(path)
    given: dict[str, Any] = {name: config[name] for name in ("dim_mult", "num_res_blocks") if name in config}
    if "temperal_downsample" in config:
        given["temporal_downsample"] = config["temperal_downsample"]
    words = {**shown, **given, **_scales(config)}
    return view, decode(words, AutoencoderShape, path)


def _open_patch_transform(path: Path, config: Mapping[str, Any]) -> tuple[View, AutoencoderShape]:
    refiner = {name: config.get(name) or () for name in ("refiner_widths", "refiner_blocks")}
    words = {"base_dim": None, "z_dim": config.get("z_dim", _PATCH_CHANNELS), **refiner, **_scales(config)}
    view, shape = plain_view(open_tensor_file(path)), decode(words, AutoencoderShape, path)
    widths, blocks = len(shape.refiner_widths), len(shape.refiner_blocks)
    if widths != blocks:
        raise InputError(
            f"{path / 'config.json'} gives 'refiner_widths' of {widths} levels and 'refiner_blocks' of {blocks}: "
            "one of each for every level."
        )
    basis = (shape.z_dim, 3 * shape.scale_factor_spatial**2)
    if (stored := view.shapes.get("image_basis")) != basis:
        told = "is not there" if stored is None else f"is of shape {stored}"
        raise InputError(
            f"{path / 'config.json'} makes 'image_basis' a tensor of shape {basis}, but in its weights it {told}."
        )
    return view, shape


def _open_text_encoder(path: Path) -> tuple[View, TextEncoderShape]:
    view, shown = open_text_encoder(path)
    del shown["relative_attention_num_buckets"]
    return view, TextEncoderShape(**shown, weights=_weights(view.file))


def _open_image_encoder(path: Path) -> tuple[View, ImageEncoderShape]:
    heads = read_config(path).get("num_attention_heads") if path.is_dir() else None
    view, shown = open_image_encoder(path, heads)
    return view, ImageEncoderShape(**shown, weights=_weights(view.file))


def _lora_report(path: Path, shape: TransformerShape) -> LoraReport:
    return open_lora(path, parameter_shapes(shape), values=False).report


# ---- identity -----------------------------------------------------------------------------------------------------


def _fingerprint(model: StoredModel, loras: Iterable[tuple[Path, float]], precision: str | None) -> str:
    """Hash of names, shapes and a fixed sample of every tensor's numbers, of the configurations, and of the LoRAs.

    Numbers count, not how they are stored: a converted model is the same model.
    """
    schedule = [(word, model.scheduler[word]) for word in _SCHEDULE_WORDS if model.scheduler.get(word)]
    sha = hashlib.sha256(repr([precision and str(precision), model.sampling.scheduler, schedule]).encode())
    for name, view in sorted(model.networks.items()):
        for key in sorted(view):
            sha.update(f"{name}.{key}{view.shapes[key]}".encode())
            sha.update(sample(view, key).tobytes())
    for path, strength in loras:
        file = plain_view(open_tensor_file(path))
        sha.update(f"lora {strength!r}".encode())
        if (words := read_adapter_words(file.file)) != AdapterWords():
            sha.update(repr(words).encode())
        for key in sorted(file):
            sha.update(f"{key}{file.shapes[key]}".encode())
            sha.update(sample(file, key).tobytes())
    return sha.hexdigest()


def sample_places(count: int) -> list[tuple[int, int]]:
    """(start, count) of the numbers of a tensor that are looked at: all of a small one, a few runs of a large one."""
    if count <= _PLACES * _RUN:
        return [(0, count)]
    return [(round(each * (count - _RUN) / (_PLACES - 1)), _RUN) for each in range(_PLACES)]


def sample(view: View, name: str) -> np.ndarray:
    """A few numbers of a stored tensor, float32 (N,), the same ones for every way of storing it."""
    found = [view.numbers(name, *place) for place in sample_places(math.prod(view.shapes[name]))]
    return (np.concatenate(found) + 0.0).astype("<f4")  # a zero is a zero, whatever its sign
