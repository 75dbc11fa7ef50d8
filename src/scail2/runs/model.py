"""The model of a run: loaded only when something must be rendered, identified by its parameters' content."""

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.checkpoints.lora import fused_loras, has_loras
from scail2.conditions import ConditionGeometry
from scail2.devices import Precision, default_device, find_device
from scail2.errors import InputError
from scail2.files.documents import DocumentError, decode
from scail2.files.storage import digest, is_present
from scail2.pipeline.sampling import SamplingDefaults
from scail2.request.animation import AnimationRequest
from scail2.request.names import under_present_names
from scail2.runs.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline

# Elements of every parameter that enter the fingerprint: enough to tell any two checkpoints apart, fast at 14B.
_SAMPLED_ELEMENTS = 4096
_FACTS = "model.json"
_EMBEDDED = "embedded"
_STORED = "stored"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What planning needs to know of a model, kept in the run so that planning needs no weights.

    ``unasked_dtype`` is the number format the model was loaded in where the request names none, which another machine
    might choose differently: ``stored`` for each network's own; None where the request names it, and in older runs.
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
    lora_remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, pipe: "SCAIL2Pipeline", *, name: str, files: str, unasked_dtype: str | None = None) -> Self:
        """Reads the facts off a loaded pipeline; ``files`` identifies the files it came from, empty if unknown."""
        geometry = ConditionGeometry.of(pipe.transformer)
        step = geometry.size_step(pipe.vae)
        config = pipe.transformer.config
        # Beyond the position shifts the driving tokens would sit on the video's own positions.
        largest_height, largest_width = (
            shift * patch * pipe.vae.config.scale_factor_spatial if shift else 8192
            for shift, patch in (
                (config.rope_reference_height_shift, config.patch_size[1]),
                (config.rope_driving_width_shift, config.patch_size[2]),
            )
        )
        return cls(
            name=name,
            fingerprint=fingerprint(pipe),
            size_step=step,
            native_size=(pipe.config.native_height, pipe.config.native_width),
            largest_size=(int(largest_height), int(largest_width)),
            segment_frame_length=pipe.config.segment_frame_length,
            prev_segment_conditioning_frames=pipe.config.prev_segment_conditioning_frames,
            sampling=SamplingDefaults.of(pipe),
            takes_text=config.text_dim is not None,
            has_loras=has_loras(pipe.transformer),
            files=files,
            unasked_dtype=unasked_dtype,
            lora_remarks=tuple(fused_loras(pipe.transformer).remarks),
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


class PipelineCache:
    """Keeps the pipeline that was loaded last, for the next run that asks for the same model in the same way.

    Given where a pipeline may be given (`RunDirectory.execute`), by whoever does many runs in one process.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._pipe: SCAIL2Pipeline | None = None

    def load(self, model: str | None, marks: str, **settings: Any) -> "SCAIL2Pipeline":
        """`load_pipeline`, unless ``model`` and ``settings`` are the last ones and its files (``marks``) unchanged."""
        from scail2.loading.by_name import load_pipeline

        key = (model, marks, *sorted((name, str(value)) for name, value in settings.items()))
        if self._pipe is None or self._key != key or not marks:
            self._pipe = None  # the old one goes before the new one comes: both may not fit
            self._pipe, self._key = load_pipeline(model, **settings), key
        return self._pipe


class ModelHandle:
    """The pipeline a run renders with, loaded on first use, and its facts, remembered while its files stay unchanged."""

    def __init__(
        self,
        request: AnimationRequest,
        pipe: "SCAIL2Pipeline | PipelineCache | None" = None,
        folder: Path | None = None,
    ) -> None:
        self._request = request
        self._cache = pipe if isinstance(pipe, PipelineCache) else PipelineCache()
        self._pipe = None if isinstance(pipe, PipelineCache) else pipe
        self._given = self._pipe is not None
        self._folder = folder

    @property
    def _name(self) -> str:
        return self._request.model or _EMBEDDED

    @property
    def _unasked_dtype(self) -> str | None:
        """What to load the model in where the request names no format: as the run in the folder began with it."""
        if self._given or self._request.dtype is not None:
            return None
        from scail2.loading.by_name import default_dtype

        device = find_device(self._request.device or default_device())
        noted = _noted(self._folder) if self._folder else {}
        if noted.get("name") == self._name:
            # Earlier versions took the embedded model's float16 for float32 on every CPU.
            earlier = "float32" if self._request.model is None and device.type == "cpu" else None
            known = noted.get("unasked_dtype", earlier)
            if known in (*Precision, _STORED):
                return known
        chosen = default_dtype(self._request.model, device)
        return _STORED if chosen is None else str(chosen).removeprefix("torch.")

    @property
    def pipe(self) -> "SCAIL2Pipeline":
        """The loaded pipeline."""
        if self._pipe is None:
            dtype = self._request.dtype or self._unasked_dtype
            device = self._request.device or default_device()
            # The run shows its own progress.
            with no_loading_bars():
                self._pipe = self._cache.load(
                    self._request.model,
                    _file_marks(self._request),
                    torch_dtype=None if dtype is None or dtype == _STORED else Precision.parse(dtype).torch_dtype,
                    device=device,
                    offload=self._request.offload,
                    loras=self._request.lora,
                )
            self._pipe.set_progress_bar_config(disable=True)
        return self._pipe

    def facts(self, folder: Path | None = None) -> ModelFacts:
        """The model's facts, from ``folder``/model.json while the model's files are unchanged, else from the model."""
        known = read_facts(folder) if folder else None
        if known is not None and self._has_same_files(known):
            return known
        files = "" if self._given else _file_marks(self._request)
        facts = ModelFacts.of(self.pipe, name=self._name, files=files, unasked_dtype=self._unasked_dtype)
        if folder:
            write_sealed(folder / _FACTS, facts.to_json())
        return facts

    def unchanged_since(self, folder: Path) -> bool:
        """Whether the model has the content that ``folder``/model.json remembers (or nothing is remembered yet)."""
        facts = read_facts(folder)
        if facts is not None and self._has_same_files(facts):
            return True
        known = _noted(folder).get("fingerprint")
        return known is None or fingerprint(self.pipe) == known

    def _has_same_files(self, facts: ModelFacts) -> bool:
        marks = "" if self._given else _file_marks(self._request)
        return bool(marks) and facts.files == marks


def read_facts(folder: Path) -> ModelFacts | None:
    """The facts that a run noted of its model; None when they are missing, incomplete or damaged: the model has them."""
    with suppress(DocumentError):
        return decode(under_present_names(_noted(folder)), ModelFacts, folder / _FACTS)
    return None


def _noted(folder: Path) -> dict[str, Any]:
    """What ``model.json`` holds, as it is (earlier versions wrote less); nothing when it is missing or damaged."""
    path = folder / _FACTS
    with suppress(DocumentError):
        return read_sealed(path, dict[str, Any]) if is_present(path) else {}
    return {}


def fingerprint(pipe: "SCAIL2Pipeline") -> str:
    """Hash of a pipeline's components: names, shapes and a fixed sample of every parameter's and buffer's elements.

    Independent of how the weights were stored, sensitive to fused LoRAs, and quick on the largest model.
    """
    sha = hashlib.sha256()
    for name, component in sorted(pipe.components.items()):
        if isinstance(component, torch.nn.Module):
            for key, value in component.state_dict().items():
                sha.update(f"{name}.{key}{tuple(value.shape)}{value.dtype}".encode())
                sha.update(_sample(_present(component, f"{name}.{key}", value)))
        elif hasattr(component, "config"):
            settings = {key: value for key, value in component.config.items() if not key.startswith("_")}
            sha.update(digest([name, repr(sorted(settings.items()))]).encode())
    return sha.hexdigest()


def _present(component: torch.nn.Module, name: str, value: torch.Tensor) -> torch.Tensor:
    """A tensor of a component's state; where offloading left only its shape, the tensor that its hook keeps."""
    if not value.is_meta:
        return value
    owner, _, key = name.partition(".")[2].rpartition(".")
    hook = getattr(component.get_submodule(owner), "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        kept = getattr(each, "weights_map", None)
        if kept is not None and key in kept:
            return kept[key]
    raise InputError(
        f"The model cannot be identified, because {name} is not in memory: give the pipeline before offloading it."
    )


def _sample(value: torch.Tensor) -> bytes:
    flat = value.detach().reshape(-1)
    if flat.numel() > _SAMPLED_ELEMENTS:
        flat = flat[:: flat.numel() // _SAMPLED_ELEMENTS]
    return flat.contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _file_marks(request: AnimationRequest) -> str:
    """Hash of size and modification time of every file the model is read from; empty when one is not on this disk."""
    from scail2.loading.by_name import embedded_model_path, parse_lora

    model = Path(request.model) if request.model else embedded_model_path()
    stats = []
    for root in (model, *(parse_lora(each)[0] for each in request.lora)):
        if not root.exists():
            return ""
        files = sorted(each for each in root.rglob("*") if each.is_file()) if root.is_dir() else [root]
        stats += [[str(each), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    return digest([request.dtype, list(request.lora), stats])
