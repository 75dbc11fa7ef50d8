"""The model of a run: planned with from its files, loaded only when something must be rendered, identified by its content."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scail2.checkpoints.adapter_words import words_beside
from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.devices import Precision, default_kind
from scail2.files.documents import DocumentError, decode
from scail2.files.storage import digest, is_present
from scail2.loading.facts import FROM_FILES, ModelFacts, stored_facts
from scail2.loading.magnitudes import find_magnitudes
from scail2.loading.places import encoder_places, model_place, parse_lora
from scail2.loading.precision import default_precision
from scail2.request.animation import AnimationRequest
from scail2.request.names import under_present_names
from scail2.request.placement import Placement, WeightStorage
from scail2.request.speed import Magnitudes, Speed, StepCache
from scail2.runs.layout import EMBEDDINGS
from scail2.runs.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    import torch

    from scail2.budget.shapes import ModelShape
    from scail2.pipeline import SCAIL2Pipeline
    from scail2.pipeline.visiting import EncoderSource

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
        self._with_encoders = True
        self._shape: ModelShape | None = None

    @property
    def _name(self) -> str:
        return self._request.model or _EMBEDDED

    @property
    def device_kind(self) -> str:
        """Where the model will work, as far as number formats depend on it; a device that is not there is refused."""
        return self.device_name.partition(":")[0]

    @property
    def device_name(self) -> str:
        """The device the model will work on, ``cuda:1`` or ``cuda``; one that is not there is refused."""
        named = self._request.device
        if named is None:
            return default_kind()
        if named == "cpu":
            return named
        from scail2.devices import find_device

        return str(find_device(named))

    @property
    def _unasked_dtype(self) -> str | None:
        """What to load the model in where the request names no format: as the run in the folder began with it."""
        if self._given or self._request.dtype is not None:
            return None
        kind = self.device_kind
        noted = _noted(self._folder) if self._folder else {}
        if noted.get("name") == self._name:
            # Earlier versions took the embedded model's float16 for float32 on every CPU.
            earlier = "float32" if self._request.model is None and kind == "cpu" else None
            known = noted.get("unasked_dtype", earlier)
            if known in (*Precision, _STORED):
                return known
        return default_precision(self._request.model, kind) or _STORED

    @property
    def _torch_dtype(self) -> torch.dtype | None:
        dtype = self._request.dtype or self._unasked_dtype
        return None if dtype is None or dtype == _STORED else Precision.parse(dtype).torch_dtype

    @property
    def _device(self) -> torch.device:
        from scail2.devices import default_device, find_device

        return find_device(self._request.device or default_device())

    @cached_property
    def placement(self) -> Placement:
        """How the model lies in memory, as the request names it or as it was chosen."""
        from scail2.loading.choosing import choose_placement

        fused = bool(self._request.lora)
        asked, place = self._request.asked_placement, model_place(self._request.model)
        return choose_placement(asked, place, self._device, self._shape, lora_bytes=int(fused))

    @property
    def pipe(self) -> SCAIL2Pipeline:
        """The loaded pipeline; with encoders of its own where the placement keeps them and `leave_encoders_out` was not said."""
        if self._pipe is None:
            # The run shows its own progress.
            with no_loading_bars():
                self._pipe = self._cache.load(
                    self._request.model,
                    _FileMarks.of(self._request).all,
                    dtype=self._torch_dtype,
                    device=self._device,
                    placement=self.placement,
                    loras=self._request.lora,
                    speed=self._request.speed,
                    encoders=self._with_encoders and not self.placement.frees_encoders,
                )
            self._pipe.set_progress_bar_config(disable=True)
        return self._pipe

    @cached_property
    def magnitudes(self) -> Magnitudes | None:
        """What the request's step cache decides with; None where it needs none, or a pipeline was handed in.

        Raises InputError where it was not measured of this model.
        """
        if self._given or self._request.cache is not StepCache.MAG:
            return None
        return find_magnitudes(self._request.model, self._request.lora)

    def check_settings(self) -> None:
        """Refuses what loading the model as the request has it would: kernel, compilation, step cache, form of the weights.

        Nothing is loaded. (A pipeline handed in is taken as it is.)
        """
        request, placement = self._request, self._request.asked_placement
        if self._given:
            return
        _ = self.magnitudes
        if request.speed == Speed() and placement.storage in (WeightStorage.AUTO, WeightStorage.FULL):
            return
        from scail2.loading.placing import check_storage  # with torch, which a plain plan does without
        from scail2.loading.speed import check_speed

        check_speed(self.device_kind, request.speed, placement)
        check_storage(placement.storage, fused=bool(request.lora))

    def place_as(self, placement: Placement) -> None:
        """The model will lie so, as it was chosen for the job."""
        self.__dict__["placement"] = placement

    def leave_encoders_out(self) -> None:
        """Everything is encoded: the pipeline, if it is still to be loaded, needs no encoders."""
        self._with_encoders = False

    def encoders(self, facts: ModelFacts) -> tuple[Any, EncoderSource]:
        """The transformer's configuration, and where encoders come from: of their files, where they are not to stay."""
        from scail2.loading.encoders_in_turn import StoredEncoders
        from scail2.pipeline.visiting import OwnEncoders

        if self._pipe is not None or facts.shape is None or not self.placement.frees_encoders:
            return self.pipe.transformer.config, OwnEncoders(self.pipe)
        streamed = self.placement.offloads
        source = StoredEncoders(model_place(self._request.model), self._torch_dtype, self._device, streamed=streamed)
        return facts.shape.transformer, source

    def facts(self, folder: Path | None = None) -> ModelFacts:
        """The model's facts, from ``folder``/model.json while the model's files are unchanged, else from the model.

        A model that is known by its content keeps the name it has in the run's keys, however it is come by now.
        """
        known = read_facts(folder) if folder else None
        if known is not None and self._has_same_files(known):
            self._shape = known.shape
            return known
        facts = self._read()
        self._shape = facts.shape
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
        marks = _FileMarks.of(self._request)
        return replace(
            facts, files=marks.all, unasked_dtype=unasked, other_files=marks.others, encoder_files=marks.encoders
        )

    def _is(self, known: str) -> bool:
        """Whether the model's content is what a run noted: of its files, or, earlier and by hand, of a loaded pipeline."""
        from scail2.runs.loaded_model import fingerprint, is_loaded_from

        if not known.startswith(FROM_FILES):
            return fingerprint(self.pipe) == known
        if self._given and not is_loaded_from(self.pipe, self._request):
            return False
        return ModelHandle(self._request, folder=self._folder)._read().fingerprint == known

    def _has_same_files(self, facts: ModelFacts) -> bool:
        if self._given:
            return False
        marks = _FileMarks.of(self._request)
        if marks.all and facts.files == marks.all:
            return True
        # Encoders may be gone when what they made is kept; what is still there must be what it was.
        kept = self._folder is not None and is_present(self._folder / EMBEDDINGS)
        same = bool(marks.others) and facts.other_files == marks.others
        return kept and same and set(marks.encoders) < set(facts.encoder_files)


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


@dataclass(frozen=True, slots=True)
class _FileMarks:
    """Size and modification time of every file that a model is read from.

    ``all`` is a hash of them, ``others`` of those that are no encoder's, each of which is a line of ``encoders``. Hashes are
    empty where one of the files is not on this disk.
    """

    all: str = ""
    others: str = ""
    encoders: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: AnimationRequest) -> Self:
        model = Path(request.model) if request.model else model_place(None)
        loras = [parse_lora(each)[0] for each in request.lora]
        roots = (model, *loras, *filter(None, map(words_beside, loras)))
        if not all(root.exists() for root in roots):
            return cls()
        encoders = encoder_places(model)
        stats, others, apart = [], [], []
        for root in roots:
            files = sorted(each for each in root.rglob("*") if each.is_file()) if root.is_dir() else [root]
            for file in files:
                facts = [str(file), file.stat().st_size, file.stat().st_mtime_ns]
                stats.append(facts)
                if any(file.is_relative_to(place) for place in encoders):
                    apart.append(digest(facts))
                else:
                    others.append(facts)
        told = [request.dtype, list(request.lora)]
        return cls(digest([*told, stats]), digest([*told, others]), tuple(apart))
