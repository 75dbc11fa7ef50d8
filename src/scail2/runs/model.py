"""The model of a run: planned with from its files, loaded only when something must be rendered, identified by its content."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scail2.devices import Precision, default_kind
from scail2.files.documents import DocumentError, decode
from scail2.files.storage import digest, is_present
from scail2.loading.facts import FROM_FILES, ModelFacts, stored_facts
from scail2.loading.places import model_place, parse_lora
from scail2.loading.precision import default_precision
from scail2.request.animation import AnimationRequest
from scail2.request.names import under_present_names
from scail2.runs.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline

_FACTS = "model.json"
_EMBEDDED = "embedded"
_STORED = "stored"


class PipelineCache:
    """Keeps the pipeline that was loaded last, for the next run that asks for the same model in the same way.

    Given where a pipeline may be given (`RunDirectory.execute`), by whoever does many runs in one process.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._pipe: SCAIL2Pipeline | None = None

    def load(self, model: str | None, marks: str, **settings: Any) -> SCAIL2Pipeline:
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
        pipe: SCAIL2Pipeline | PipelineCache | None = None,
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
    def _device_kind(self) -> str:
        """Where the model will work, as far as number formats depend on it; a device that is not there is refused."""
        named = self._request.device
        if named is None:
            return default_kind()
        if named == "cpu":
            return named
        from scail2.devices import find_device

        return find_device(named).type

    @property
    def _unasked_dtype(self) -> str | None:
        """What to load the model in where the request names no format: as the run in the folder began with it."""
        if self._given or self._request.dtype is not None:
            return None
        kind = self._device_kind
        noted = _noted(self._folder) if self._folder else {}
        if noted.get("name") == self._name:
            # Earlier versions took the embedded model's float16 for float32 on every CPU.
            earlier = "float32" if self._request.model is None and kind == "cpu" else None
            known = noted.get("unasked_dtype", earlier)
            if known in (*Precision, _STORED):
                return known
        return default_precision(self._request.model, kind) or _STORED

    @property
    def pipe(self) -> SCAIL2Pipeline:
        """The loaded pipeline."""
        if self._pipe is None:
            from scail2.devices import default_device

            dtype = self._request.dtype or self._unasked_dtype
            device = self._request.device or default_device()
            self._pipe = self._cache.load(
                self._request.model,
                _file_marks(self._request),
                torch_dtype=None if dtype is None or dtype == _STORED else Precision.parse(dtype).torch_dtype,
                device=device,
                offload=self._request.offload,
                loras=self._request.lora,
            )
            # The run shows its own progress.
            self._pipe.set_progress_bar_config(disable=True)
        return self._pipe

    def facts(self, folder: Path | None = None) -> ModelFacts:
        """The model's facts, from ``folder``/model.json while the model's files are unchanged, else from the model.

        A model that is known by its content keeps the name it has in the run's keys, however it is come by now.
        """
        known = read_facts(folder) if folder else None
        if known is not None and self._has_same_files(known):
            return known
        facts = self._read()
        noted = _noted(folder).get("fingerprint") if folder else None
        if isinstance(noted, str) and noted != facts.fingerprint and self._is(noted):
            facts = replace(facts, fingerprint=noted)
        if folder:
            write_sealed(folder / _FACTS, facts.to_json())
        return facts

    def unchanged_since(self, folder: Path) -> bool:
        """Whether the model has the content that ``folder``/model.json remembers (or nothing is remembered yet)."""
        facts = read_facts(folder)
        if facts is not None and self._has_same_files(facts):
            return True
        known = _noted(folder).get("fingerprint")
        return known is None or self._is(known)

    def _read(self) -> ModelFacts:
        """The facts of the files, or of the pipeline that was handed in."""
        if self._given:
            from scail2.runs.loaded_model import facts_of_pipeline

            return facts_of_pipeline(self.pipe, name=self._name)
        unasked = self._unasked_dtype
        facts = stored_facts(
            model_place(self._request.model),
            name=self._name,
            loras=[parse_lora(each) for each in self._request.lora],
            precision=self._request.dtype or unasked,
        )
        return replace(facts, files=_file_marks(self._request), unasked_dtype=unasked)

    def _is(self, known: str) -> bool:
        """Whether the model's content is what a run noted: of its files, or, earlier and by hand, of a loaded pipeline."""
        from scail2.runs.loaded_model import fingerprint, is_loaded_from

        if not known.startswith(FROM_FILES):
            return fingerprint(self.pipe) == known
        if self._given and not is_loaded_from(self.pipe, self._request):
            return False
        return ModelHandle(self._request, folder=self._folder)._read().fingerprint == known

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


def _file_marks(request: AnimationRequest) -> str:
    """Hash of size and modification time of every file the model is read from; empty when one is not on this disk."""
    model = Path(request.model) if request.model else model_place(None)
    stats = []
    for root in (model, *(parse_lora(each)[0] for each in request.lora)):
        if not root.exists():
            return ""
        files = sorted(each for each in root.rglob("*") if each.is_file()) if root.is_dir() else [root]
        stats += [[str(each), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    return digest([request.dtype, list(request.lora), stats])
