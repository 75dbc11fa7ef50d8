"""What the encoders made of a run's prompt and reference, kept in the run: they are loaded for it once, and never to resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from scail2.conditions import seen_reference
from scail2.devices import without_gradients
from scail2.files.storage import digest, hash_file, is_present, read_bytes, write_bytes
from scail2.pipeline.embeds import picture_embeds, prompt_conditions
from scail2.pipeline.inputs import mask_tensor, picture_tensor
from scail2.pipeline.stages import PromptConditions
from scail2.request.animation import AnimationRequest
from scail2.runs.layout import EMBEDDINGS
from scail2.runs.ledger import StageLedger
from scail2.runs.planning import is_guided
from scail2.runs.segment_store import hash_frames

if TYPE_CHECKING:
    from scail2.pipeline.visiting import EncoderSource
    from scail2.runs.preparation import Prepared

_STAGE = "embeddings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """Prompts (1, text_length, text_dim) and reference (1, image_length, image_dim) as embeddings, float32 on the CPU."""

    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    image_embeds: Tensor | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `SCAIL2Pipeline.stream` that take the place of the prompts and the picture."""
        texts = {} if self.prompt_embeds is None else {"prompt": None, "negative_prompt": None}
        return texts | self._given()

    def _given(self) -> dict[str, Tensor]:
        named = {name: getattr(self, name) for name in ("prompt_embeds", "negative_prompt_embeds", "image_embeds")}
        return {name: value for name, value in named.items() if value is not None}


class EmbeddingStage:
    """Makes or reuses the embeddings of one run."""

    def __init__(self, folder: Path, request: AnimationRequest, prepared: Prepared, ledger: StageLedger) -> None:
        self._path = folder / EMBEDDINGS
        self._request = request
        self._prepared = prepared
        self._ledger = ledger

    @property
    def _guided(self) -> bool:
        return is_guided(self._prepared.sampling.settings, self._prepared.facts.sampling)

    @property
    def _key(self) -> str:
        request, masks, plan, asked = (
            self._request,
            self._prepared.masks,
            self._prepared.plan,
            self._prepared.sampling.asked,
        )
        pictures = [hash_frames(each[None]) for each in (masks.reference, masks.reference_mask)]
        seen = [pictures, plan.height, plan.width, str(request.mode), request.black_out_reference]
        return digest([asked["prompt"], asked["negative_prompt"], self._guided, seen, self._prepared.facts.fingerprint])

    def kept(self) -> Embeddings | None:
        """What an earlier execution kept, if it is of the same prompt, picture and model, and whole."""
        noted = self._ledger.facts(_STAGE, self._key)
        if noted is None or not is_present(self._path) or hash_file(self._path) != noted.get("sha256"):
            return None
        try:
            return Embeddings(**load(read_bytes(self._path)))
        except (SafetensorError, TypeError):
            return None

    @without_gradients
    def make(self, config: Any, encoders: EncoderSource) -> Embeddings:
        """Encodes prompt and reference, one encoder after the other, and keeps the result.

        Args:
            config: the transformer's.
        """
        # Each encoder in a call of its own: nothing here may hold on to it when it has left.
        found: dict[str, Tensor | None] = {}
        if config.text_dim is not None:
            found |= asdict(self._texts(config, encoders))
        if config.image_dim is not None:
            found["image_embeds"] = self._picture(config, encoders)
        values = {name: value.contiguous().cpu() for name, value in found.items() if value is not None}
        if values:
            write_bytes(self._path, save(values))
            self._ledger.record(_STAGE, self._key, sha256=hash_file(self._path))
        return Embeddings(**values)

    def _texts(self, config: Any, encoders: EncoderSource) -> PromptConditions:
        asked = self._prepared.sampling.asked
        texts = (asked["prompt"], asked["negative_prompt"])
        with encoders.text() as encoder:
            return prompt_conditions((config, *encoder), texts, (None, None), with_negative=self._guided)

    def _picture(self, config: Any, encoders: EncoderSource) -> Tensor | None:
        seen = self._seen_reference()
        with encoders.image() as encoder:
            return picture_embeds(config, *encoder, seen, None)

    def _seen_reference(self) -> Tensor:
        """The reference as the pipeline shows it to the image encoder."""
        masks, plan, mode = self._prepared.masks, self._prepared.plan, self._request.mode
        size = (plan.height, plan.width)
        picture = picture_tensor(masks.reference, "reference", size)
        mask = mask_tensor(masks.reference_mask, "reference_mask", size, mode)
        return seen_reference(picture, mask, mode=mode, black_out_reference=self._request.black_out_reference)
