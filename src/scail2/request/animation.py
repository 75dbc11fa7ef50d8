"""`AnimationRequest`: everything one run needs to know, the same for Python, the command line, TOML files and HTTP.

The fields below are the only list of settings. Their metadata carries the help text from which the command line makes
its options, so a setting cannot exist in one face and miss in another.
"""

# ruff: noqa: RUF009 - `setting` only wraps `dataclasses.field`
import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from scail2.errors import InputError, short
from scail2.files.documents import decode, load_toml, parse_json
from scail2.files.public.choice import Offload
from scail2.files.user_paths import expanded
from scail2.modes import AnimationMode
from scail2.request import values
from scail2.request.paths import absolute_lora, absolute_model, refuse_overwriting

REQUEST_VERSION = 1


class Reframe(StrEnum):
    """What preflight may do about a reference framed unlike the driving video."""

    OFF = "off"
    AUTO = "auto"


class DriftCorrection(StrEnum):
    """Which anchor each segment's colours are matched to (Reinhard's LAB mean and deviation)."""

    OFF = "off"
    REINHARD_FIRST = "reinhard-first"
    REINHARD_PREVIOUS = "reinhard-previous"


class Fit(StrEnum):
    """How pictures of another aspect meet the run's size."""

    COVER = "cover"
    LETTERBOX = "letterbox"


class Precision(StrEnum):
    """Number format the model computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


# Panels of `--help`, in order.
INPUTS, SAMPLING, SEGMENTS, MASKS, OUTPUT = "Inputs", "Sampling", "Length and segments", "Masks", "Output"


def setting(default: Any, panel: str, help: str, *, metavar: str | None = None, option: str | None = None) -> Any:
    """A dataclass field whose metadata the command line turns into an option."""
    return field(default=default, metadata={"panel": panel, "help": help, "metavar": metavar, "option": option})


@dataclass(frozen=True, kw_only=True, slots=True)
class AnimationRequest:
    """One animation or replacement job.

    ``None`` means "derive it": sizes from the model and the driving video's aspect, the rate from the driving video,
    sampling settings from the preset, segment length from the model. Paths are made absolute, so that a run can be
    resumed from anywhere. Raises `InputError` with one sentence for any value that cannot be meant.
    """

    mode: AnimationMode = field(default=AnimationMode.ANIMATION, metadata={"option": None})
    reference: Path = setting(None, INPUTS, "Picture of the character(s) to animate.", metavar="PICTURE")
    driving: Path = setting(None, INPUTS, "Video (or folder of frames) whose motion is followed.", metavar="VIDEO")
    output: Path = setting(None, OUTPUT, "The video to write.", metavar="FILE")
    additional_references: tuple[Path, ...] = setting(
        (),
        INPUTS,
        "Another view of the same character(s); repeatable.",
        metavar="PICTURE",
        option="--additional-reference",
    )
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
    offload: Offload = setting(Offload.OFF, SAMPLING, "Keep off the GPU: off, model (all networks but one) or layers.")
    preset: str | None = setting(None, SAMPLING, "Named sampling settings; without it the model's own.")
    steps: int | None = setting(None, SAMPLING, "Denoising steps, instead of the preset's.")
    guidance_scale: float | None = setting(None, SAMPLING, "Classifier-free guidance; 1 switches it off.")
    shift: float | None = setting(None, SAMPLING, "Timestep shift of the flow schedule.")
    solver: str | None = setting(None, SAMPLING, "Solver: unipc, dpm++ or euler.")
    seed: int = setting(0, SAMPLING, "Seed of the run's one noise generator.")
    height: int | None = setting(None, OUTPUT, "Height in pixels, a multiple of the model's step.")
    width: int | None = setting(None, OUTPUT, "Width in pixels, a multiple of the model's step.")
    fit: Fit = setting(Fit.COVER, OUTPUT, "Fit of the driving video: cover (crop) or letterbox (bars).")
    fps: str | float | None = setting(None, SEGMENTS, "Frame rate (16, 30000/1001); else the driving video's own.")
    frames: int | None = setting(None, SEGMENTS, "Use only this many frames from the driving video's beginning.")
    segment_frames: int | None = setting(None, SEGMENTS, "Frames a segment, 4n+1 (81 for the full-size model).")
    overlap: int | None = setting(None, SEGMENTS, "Frames a segment takes over from the one before, 4n+1.")
    equal_segments: bool = setting(False, SEGMENTS, "Segments of equal length instead of a short last one.")
    drift_correction: DriftCorrection = setting(
        DriftCorrection.OFF, SEGMENTS, "off, reinhard-first or reinhard-previous: match colours segment by segment."
    )
    drift_limit: float | None = setting(
        None, SEGMENTS, "Stop, keeping everything, when a segment's drift exceeds this."
    )
    masks: Path | None = setting(None, MASKS, "Masks of an earlier run or of `scail2 masks`.", metavar="DIR")
    reference_mask: tuple[Path, ...] = setting(
        (), MASKS, "Mask of the reference: palette picture or mattes, one a character.", metavar="FILE"
    )
    driving_mask: tuple[Path, ...] = setting(
        (), MASKS, "Mask of the driving video: palette video or mattes, one a character.", metavar="FILE"
    )
    additional_masks: tuple[Path, ...] = setting(
        (), MASKS, "Mask of an additional reference, in their order.", metavar="FILE", option="--additional-mask"
    )
    fix_polarity: bool = setting(
        False, MASKS, "Repaint given masks whose background contradicts the mode instead of refusing them."
    )
    bind: tuple[str, ...] = setting(
        (), MASKS, "left-to-right, area, first-appearance, or driving:2=reference:1 (repeatable).", metavar="RULE"
    )
    reframe: Reframe = setting(
        Reframe.OFF, MASKS, "off or auto: rescale the reference to the driving character's size."
    )
    keep_reference_background: bool = setting(
        False, MASKS, "Replacement: do not black out the reference outside its characters."
    )
    codec: str | None = setting(None, OUTPUT, "h264, ffv1 or png; without it from the output's name.")
    audio: bool = setting(True, OUTPUT, "Carry the driving video's sound over.")
    compare: bool = setting(False, OUTPUT, "Also write reference | driving | output side by side.")

    def __post_init__(self):
        for name, convert in _CONVERTERS.items():
            object.__setattr__(self, name, convert(label(name), getattr(self, name)))
        _check_paths(self)
        object.__setattr__(self, "lora", tuple(absolute_lora(each) for each in self.lora))

    @property
    def compare_output(self) -> Path:
        """Where ``compare`` writes: ``NAME-compare.SUFFIX`` beside the output."""
        return self.output.with_name(f"{self.output.stem}-compare{self.output.suffix}")

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Everything that will be written: the output, and the comparison if asked for."""
        return (self.output, self.compare_output) if self.compare else (self.output,)

    @property
    def input_files(self) -> list[tuple[str, Path]]:
        """(field name, path) of every given picture, video and mask."""
        named = [("reference", self.reference), ("driving", self.driving)]
        named += [("masks", self.masks)] if self.masks else []
        for name in ("additional_references", "additional_masks", "reference_mask", "driving_mask"):
            named += [(name, path) for path in getattr(self, name)]
        return named

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
        if version != REQUEST_VERSION:
            raise InputError(
                f"The request has version {short(version)}, but this scail2 reads version {REQUEST_VERSION}."
            )
        return cls.from_settings(settings, where="the request")

    @classmethod
    def from_toml(cls, path: str | Path, **changes: Any) -> Self:
        """Reads a TOML file of settings; relative paths are relative to the file, ``changes`` win over it."""
        return cls.from_settings(read_toml(path) | changes, where=str(path))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, where: str = "the settings") -> Self:
        """Builds a request from named settings, refusing unknown names with the nearest known one."""
        known = [each.name for each in fields(cls)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
                raise InputError(f"Unknown setting {short(name)} in {where}; {hint}")
        return cls(**settings)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Settings of a TOML file, named like options or fields; relative paths become relative to the file's folder."""
    path = Path(path)
    try:
        settings = load_toml(path, dict[str, Any])
    except OSError as error:
        raise InputError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    settings = _named_by_field(settings, path)
    folder = path.resolve().parent
    for name in _PATH_FIELDS & settings.keys():
        settings[name] = _relative_to(folder, settings[name])
    if "lora" in settings:
        given = settings["lora"] if isinstance(settings["lora"], list) else [settings["lora"]]
        settings["lora"] = [absolute_lora(each, folder) if isinstance(each, str) else each for each in given]
    if isinstance(settings.get("model"), str) and (folder / settings["model"]).exists():
        settings["model"] = str(folder / settings["model"])
    return settings


def _named_by_field(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Settings under their field's name, whether ``-`` or ``_`` or the option's own name (``additional-mask``) was used."""
    options = {each.metadata["option"]: each.name for each in fields(AnimationRequest) if each.metadata.get("option")}
    named: dict[str, Any] = {}
    for name, value in settings.items():
        field_name = options.get("--" + name.replace("_", "-"), name.replace("-", "_"))
        if field_name in named:
            raise InputError(f"The settings file {path} states '{field_name}' twice, the second time as '{name}'.")
        named[field_name] = value
    return named


def _relative_to(folder: Path, value: Any) -> Any:
    if isinstance(value, str):
        return str(folder / expanded(value))
    return [_relative_to(folder, each) for each in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path | StrEnum) else value


def option_of(name: str) -> str:
    """The command line's option for a setting."""
    stated = next((each.metadata.get("option") for each in fields(AnimationRequest) if each.name == name), None)
    return stated or "--" + name.replace("_", "-")


def label(name: str) -> str:
    return f"'{name}' ({option_of(name)})"


_CONVERTERS = {
    "mode": lambda name, value: AnimationMode.parse(value),
    **dict.fromkeys(("reference", "driving", "output"), values.path),
    "masks": values.optional(values.path),
    **dict.fromkeys(
        ("additional_references", "additional_masks", "reference_mask", "driving_mask"), values.many(values.path)
    ),
    **dict.fromkeys(("prompt", "negative_prompt"), values.text),
    **dict.fromkeys(("device", "preset", "solver", "codec"), values.optional(values.text)),
    **dict.fromkeys(("lora", "bind"), values.many(values.text)),
    **dict.fromkeys(("equal_segments", "audio", "compare", "keep_reference_background", "fix_polarity"), values.flag),
    "model": values.optional(lambda name, value: absolute_model(values.text(name, value))),
    "offload": values.choice(Offload),
    "dtype": values.optional(values.choice(Precision)),
    "fit": values.choice(Fit),
    "reframe": values.choice(Reframe),
    "drift_correction": values.choice(DriftCorrection),
    "steps": values.optional(values.whole(1, 1000)),
    "guidance_scale": values.optional(values.real(0, 100)),
    "shift": values.optional(values.real(0, 100, open_low=True)),
    "seed": values.whole(0, 2**63 - 1),
    **dict.fromkeys(("height", "width"), values.optional(values.whole(16, 8192))),
    "fps": values.optional(values.rate),
    "frames": values.optional(values.whole(1, 10_000_000)),
    "segment_frames": values.optional(values.whole(5, 10_001, stride=4, offset=1)),
    "overlap": values.optional(values.whole(1, 9_997, stride=4, offset=1)),
    "drift_limit": values.optional(values.real(0, 1e6, open_low=True)),
}
_PATH_FIELDS = {
    "reference", "driving", "output", "additional_references", "additional_masks", "masks", "reference_mask",
    "driving_mask",
}  # fmt: skip


def _check_paths(request: AnimationRequest) -> None:
    """Refuses combinations of files that would destroy an input or contradict each other."""
    refuse_overwriting(request.outputs, request.input_files)
    if request.masks and (request.reference_mask or request.driving_mask):
        raise InputError("'masks' (--masks) already names all masks; leave out --reference-mask and --driving-mask.")
    if request.additional_masks and len(request.additional_masks) != len(request.additional_references):
        raise InputError(
            f"There are {len(request.additional_references)} additional references but {len(request.additional_masks)} "
            "masks for them; give one each, in the same order, or none."
        )
    if request.segment_frames and request.overlap and request.overlap >= request.segment_frames:
        raise InputError(
            f"'overlap' (--overlap) is {request.overlap}, but a segment has only {request.segment_frames} frames."
        )


def check_files(request: AnimationRequest) -> None:
    """Raises `InputError` naming the first input file that does not exist or cannot be read."""
    for name, path in request.input_files:
        if not path.exists():
            raise InputError(f"{label(name)}: there is no file {path}.")
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{label(name)}: {path} is a pipe or device, not a file; save it first.")
        if not os.access(path, os.R_OK):
            raise InputError(f"{label(name)}: {path} may not be read; check its permissions.")
    if request.reference.is_dir():
        raise InputError(f"{label('reference')}: {request.reference} is a folder, not a picture.")
