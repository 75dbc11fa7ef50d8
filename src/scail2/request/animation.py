"""`AnimationRequest`: everything one run needs to know, the same for Python, the command line, TOML files and HTTP.

The fields below are the only list of settings. Their metadata carries the help text from which the command line makes
its options, so a setting cannot exist in one face and miss in another.
"""

# ruff: noqa: RUF009 - `setting` only wraps `dataclasses.field`
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from scail2.devices import Precision
from scail2.errors import InputError, short
from scail2.files.documents import decode, load_toml, parse_json
from scail2.files.user_paths import expanded
from scail2.request import values
from scail2.request.masks import CONVERTERS, MASK_PATHS, MaskRequest, check_masks
from scail2.request.names import by_field
from scail2.request.paths import absolute_if_found, absolute_lora, absolute_model, refuse_overwriting
from scail2.request.placement import EARLIER_PLACEMENTS, Placement, PlacementKind, WeightStorage
from scail2.request.presets import PRESETS, Solver
from scail2.request.speed import AttentionKernel, Speed, StepCache
from scail2.request.values import INPUTS, MASKS, OUTPUT, SAMPLING, SEGMENTS, setting

# 1 had other names (`scail2.request.names`).
REQUEST_VERSION = 2


# As many as the schedule has (`scail2.models.transformer.NUM_TRAIN_TIMESTEPS`, which a request does not import).
MOST_STEPS = 1000
PIPELINE_OPTIONS = (
    "mode", "prompt", "negative_prompt", "height", "width", "preset", "num_inference_steps", "guidance_scale", "shift",
    "solver", "segment_frame_length", "prev_segment_conditioning_frames", "equal_segments", "black_out_reference",
)  # fmt: skip


class DriftCorrection(StrEnum):
    """Which anchor each segment's colours are matched to (Reinhard's LAB mean and deviation)."""

    OFF = "off"
    REINHARD_FIRST = "reinhard-first"
    REINHARD_PREVIOUS = "reinhard-previous"


class AlphaMask(StrEnum):
    """Whose outline a film with transparency has: the finished characters' own, or that of the driving masks."""

    OFF = "off"
    OUTPUT = "output"
    DRIVING = "driving"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnimationRequest(MaskRequest):
    """One animation or replacement.

    ``None`` means "derive it": sizes from the model and the driving video's aspect, the rate from the driving video,
    sampling settings from the preset, segment length from the model. Paths are made absolute, so that a run can be
    resumed from anywhere. Raises `InputError` with one sentence for any value that cannot be meant.
    """

    output: Path = setting(None, OUTPUT, "The video to write.", metavar="FILE")
    prompt: str = setting("", INPUTS, "Describes the resulting video, for models with a text encoder.")
    negative_prompt: str = setting("", INPUTS, "What the video must not show, for models with a text encoder.")
    model: str | None = setting(
        None,
        INPUTS,
        "Folder, transformer file, name of `scail2 models` or hub:owner/name; without it the embedded model.",
        metavar="PATH",
    )
    lora: tuple[str, ...] = setting((), INPUTS, "LoRA file as PATH or PATH:STRENGTH; repeatable.", metavar="PATH[:X]")
    dtype: Precision | None = setting(None, SAMPLING, "Number format: float32, bfloat16 or float16.")
    device: str | None = setting(None, SAMPLING, "Where to compute: cpu, cuda, cuda:1, mps.")
    placement: PlacementKind = setting(
        PlacementKind.AUTO,
        SAMPLING,
        "What is on the GPU at once: auto, resident, encoders-first, block-offload or layer-offload.",
    )
    weights: WeightStorage | None = setting(
        None,
        SAMPLING,
        "Form in which the transformer's large matrices are kept: auto, full, stored (as in the file), fp8, int8 or nf4.",
    )
    vae_bf16: bool = setting(False, SAMPLING, "Autoencoder in bfloat16: less memory, faster on GPUs, not exact.")
    attention: AttentionKernel = setting(
        AttentionKernel.AUTO, SAMPLING, "What computes attention: auto, sdpa, flash, flash3, sage (8 bits) or cudnn."
    )
    compile: bool = setting(False, SAMPLING, "Compile the transformer's blocks: faster steps after a slow first one.")
    cache: StepCache = setting(
        StepCache.OFF,
        SAMPLING,
        "Reuse results of earlier steps: off, first-block, mag or taylorseer. Faster, not exact.",
    )
    preset: str | None = setting(None, SAMPLING, "Named sampling settings; without it the model's own.")
    num_inference_steps: int | None = setting(
        None, SAMPLING, "Denoising steps, instead of the preset's.", option="--steps"
    )
    guidance_scale: float | None = setting(None, SAMPLING, "Classifier-free guidance; 1 switches it off.")
    shift: float | None = setting(None, SAMPLING, "Timestep shift of the flow schedule.")
    solver: Solver | None = setting(None, SAMPLING, "Solver: unipc, dpm++ or euler.")
    seed: int = setting(0, SAMPLING, "Seed of the run's one noise generator.")
    segment_frame_length: int | None = setting(
        None, SEGMENTS, "Frames a segment, 4n+1 (81 for the full-size model).", option="--segment-frames"
    )
    prev_segment_conditioning_frames: int | None = setting(
        None, SEGMENTS, "Frames a segment takes over from the one before, 4n+1.", option="--overlap"
    )
    equal_segments: bool = setting(
        False, SEGMENTS, "Segments of equal length (or 4 frames apart) instead of a short last one."
    )
    drift_correction: DriftCorrection = setting(
        DriftCorrection.OFF, SEGMENTS, "off, reinhard-first or reinhard-previous: match colours segment by segment."
    )
    drift_limit: float | None = setting(
        None, SEGMENTS, "Stop, keeping everything, when a segment's drift exceeds this."
    )
    black_out_reference: bool = setting(
        True,
        MASKS,
        "Replacement: show the model only the reference's characters, not what is around them.",
        option="--black-out-reference/--keep-reference-background",
    )
    codec: str | None = setting(
        None, OUTPUT, "h264, ffv1, prores4444, vp9-alpha, gif, webp or png; without it from the output's name."
    )
    audio: Path | bool = setting(
        True,
        OUTPUT,
        "Soundtrack instead of the driving video's own: a film or a file of sound.",
        metavar="FILE",
        option="--audio/--no-audio",
    )
    alpha: AlphaMask = setting(
        AlphaMask.OFF,
        OUTPUT,
        "The characters alone, on transparency: off, output (found in the finished film) or driving (the driving masks).",
    )
    alpha_erode: float = setting(1.0, OUTPUT, "Pixels inside the outline at which alpha is half.")
    alpha_feather: float = setting(2.0, OUTPUT, "Pixels over which alpha goes from nothing to all; 0 is a hard edge.")
    compare: bool = setting(False, OUTPUT, "Also write reference | driving | output side by side.")

    def __post_init__(self) -> None:
        values.convert_all(self, CONVERTERS | _CONVERTERS)
        check_masks(self)
        _check_paths(self)
        object.__setattr__(self, "lora", tuple(absolute_lora(each) for each in self.lora))

    @property
    def asked_placement(self) -> Placement:
        """What is said of where the model is to be; the rest is left to be chosen."""
        return Placement(kind=self.placement, storage=self.weights or WeightStorage.AUTO, vae_bf16=self.vae_bf16)

    @property
    def speed(self) -> Speed:
        """Attention, compilation and step cache."""
        return Speed(attention=self.attention, compile=self.compile, cache=self.cache)

    @property
    def soundtrack(self) -> Path | None:
        """The file whose sound the film carries; None for none."""
        if isinstance(self.audio, Path):
            return self.audio
        return self.driving if self.audio else None

    def _files(self) -> list[tuple[str, Path]]:
        given = MaskRequest._files(self)  # a class with slots has no `super()` of its own
        return [*given, ("audio", self.audio)] if isinstance(self.audio, Path) else given

    @property
    def compare_output(self) -> Path:
        """Where ``compare`` writes: ``NAME-compare.SUFFIX`` beside the output."""
        return self.output.with_name(f"{self.output.stem}-compare{self.output.suffix}")

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Everything that will be written: the output, and the comparison if asked for."""
        return (self.output, self.compare_output) if self.compare else (self.output,)

    def pipeline_options(self) -> dict[str, Any]:
        """The settings that are arguments of `SCAIL2Pipeline.stream`, under the names they have there.

        Pictures and masks are not among them: a request names files, the pipeline takes their content.
        """
        return {name: getattr(self, name) for name in PIPELINE_OPTIONS}

    def with_changes(self, **changes: Any) -> Self:
        """The same request with some fields changed (and validated again)."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `json.dumps`; `from_json` gives an equal request back."""
        return {"version": REQUEST_VERSION} | {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, source: str | bytes | Mapping[str, Any]) -> Self:
        """Reads what `to_json` gave (a dictionary or its JSON text). Unknown names are refused."""
        if isinstance(source, str | bytes):
            source = parse_json(source, dict[str, Any], "The request")
        settings = dict(decode(source, Mapping[str, Any], "The request"))
        version = settings.pop("version", REQUEST_VERSION)
        if type(version) is not int or not 1 <= version <= REQUEST_VERSION:
            raise InputError(
                f"The request has version {short(version)}, but this scail2 reads versions up to {REQUEST_VERSION}."
            )
        return cls.from_settings(settings, where="the request")

    @classmethod
    def from_toml(cls, path: str | Path, **changes: Any) -> Self:
        """Reads a TOML file of settings; relative paths are relative to the file, ``changes`` win over it."""
        return cls.from_settings(read_toml(path) | changes, where=str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Settings of a TOML file, named like options or fields; relative paths become relative to the file's folder."""
    path = Path(path)
    try:
        settings = load_toml(path, dict[str, Any])
    except OSError as error:
        raise InputError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    settings = by_field(AnimationRequest, settings, str(path))
    folder = path.resolve().parent
    for name in _PATH_FIELDS & settings.keys():
        settings[name] = _relative_to(folder, settings[name])
    if "lora" in settings:
        given = settings["lora"] if isinstance(settings["lora"], list) else [settings["lora"]]
        settings["lora"] = [absolute_lora(each, folder) if isinstance(each, str) else each for each in given]
    for name in ("model", "sam3"):
        if isinstance(settings.get(name), str):
            settings[name] = absolute_if_found(settings[name], folder)
    return settings


def _relative_to(folder: Path, value: Any) -> Any:
    if isinstance(value, str):
        return str(folder / expanded(value))
    return [_relative_to(folder, each) for each in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path | StrEnum) else value


def _preset(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in PRESETS:
        raise InputError(f"{name} must be one of {', '.join(PRESETS)}, not {short(value)}.")
    return value


def _audio(name: str, value: Any) -> Path | bool:
    return value if isinstance(value, bool) else values.path(name, value)


_CONVERTERS = {
    "output": values.path,
    **dict.fromkeys(("prompt", "negative_prompt"), values.text),
    **dict.fromkeys(("device", "codec"), values.optional(values.text)),
    "preset": values.optional(_preset),
    "solver": values.optional(values.choice(Solver)),
    "lora": values.many(values.text),
    **dict.fromkeys(("equal_segments", "compare", "black_out_reference"), values.flag),
    "model": values.optional(lambda name, value: absolute_model(values.text(name, value))),
    "placement": lambda name, value: values.choice(PlacementKind)(name, EARLIER_PLACEMENTS.get(value, value)),
    "attention": values.choice(AttentionKernel),
    "compile": values.flag,
    "vae_bf16": values.flag,
    "cache": values.choice(StepCache),
    "weights": values.optional(values.choice(WeightStorage)),
    "audio": _audio,
    "alpha": values.choice(AlphaMask),
    "alpha_erode": values.real(0, 64),
    "alpha_feather": values.real(0, 64),
    "dtype": values.optional(values.choice(Precision)),
    "drift_correction": values.choice(DriftCorrection),
    "num_inference_steps": values.optional(values.whole(1, MOST_STEPS)),
    "guidance_scale": values.optional(values.real(0, 100)),
    "shift": values.optional(values.real(0, 100, open_low=True)),
    "seed": values.seed,
    "segment_frame_length": values.optional(values.whole(5, 10_001, stride=4, offset=1)),
    "prev_segment_conditioning_frames": values.optional(values.whole(1, 9_997, stride=4, offset=1)),
    "drift_limit": values.optional(values.real(0, 1e6, open_low=True)),
}
_PATH_FIELDS = MASK_PATHS | {"output", "audio"}


def _check_paths(request: AnimationRequest) -> None:
    """Refuses combinations of files that would destroy an input or contradict each other."""
    refuse_overwriting(request.outputs, request.input_files)
    length, overlap = request.segment_frame_length, request.prev_segment_conditioning_frames
    if length and overlap and overlap >= length:
        told = values.label(type(request), "prev_segment_conditioning_frames")
        raise InputError(f"{told} is {overlap}, but a segment has only {length} frames.")
