"""From what a client sends to an `AnimationRequest`: files by their hashes, models by the service's names, no paths."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scail2.errors import short
from scail2.request.animation import AnimationRequest
from scail2.request.masks import check_files
from scail2.serving.refusals import RefusalError
from scail2.serving.settings import ServiceSettings
from scail2.serving.uploads import Upload

ONE_FILE = frozenset({"reference", "driving", "audio"})
SEVERAL_FILES = frozenset({"additional_references", "additional_reference_masks", "reference_mask", "driving_mask"})
NAMED = frozenset({"model", "lora"})
# What an upload for them must be.
_KINDS = {
    "reference": ("picture",),
    "additional_references": ("picture",),
    "driving": ("video",),
    "audio": ("sound", "video"),
}
_MASK_KINDS = ("picture", "video")
# Decided by the service: places on its disk, and what its machine computes with.
WITHHELD = frozenset(
    {
        "output",
        "masks",
        "sam3",
        "device",
        "dtype",
        "offload",
        "placement",
        "weights",
        "vae_bf16",
        "attention",
        "compile",
        "cache",
    }
)
FORMATS = (".mp4", ".mkv", ".mov", ".webm", ".gif", ".webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlace:
    """Where a run of the service lies."""

    folder: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def served(self) -> Path:
        """Films of single segments, made when somebody asks for them."""
        return self.folder / "served"

    def film(self, suffix: str) -> Path:
        """The output."""
        return self.folder / f"film{suffix}"


def to_request(
    submitted: Mapping[str, Any], place: RunPlace, settings: ServiceSettings, find: Callable[[str], Upload]
) -> AnimationRequest:
    """The request of a submission.

    Args:
        submitted: fields of `AnimationRequest`, files as SHA-256 of an upload, and ``format`` for the output's suffix.
        find: gives an upload; raises where the client has none of that hash.

    Raises:
        InputError: a field that is withheld, a name that the service does not offer, a value that cannot be meant.
    """
    _refuse_broken_text(submitted)
    values = dict(submitted)
    for name in sorted(WITHHELD & values.keys()):
        if values.pop(name) not in (None, []):
            raise RefusalError(f"'{name}' is decided by the service: leave it out.")
    suffix = values.pop("format", ".mp4")
    if suffix not in FORMATS:
        raise RefusalError(f"'format' is one of {', '.join(FORMATS)}, not {short(suffix)}.")
    for name in ONE_FILE & values.keys():
        if isinstance(values[name], str):
            values[name] = str(_of_kind(name, find(values[name])))
    for name in SEVERAL_FILES & values.keys():
        given = values[name]
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise RefusalError(f"'{name}' is a list of uploads' hashes, not {short(given)}.")
        values[name] = [str(_of_kind(name, find(each))) for each in given]
    for name in ("reference", "driving"):
        if not isinstance(values.get(name), str):
            raise RefusalError(f"'{name}' is missing: the hash of an upload is needed.")
    values["model"] = _offered_model(values.pop("model", None), settings)
    values["lora"] = _offered_loras(values.pop("lora", None), settings)
    if values.get("text"):
        if settings.sam3 is None:
            raise RefusalError("'text' needs the segmenter SAM3, which this service does not offer.")
        values["sam3"] = settings.sam3
    request = AnimationRequest.from_settings(values | {"output": str(place.film(suffix))}, where="the request")
    check_files(request)
    return request


def _refuse_broken_text(values: Mapping[str, Any]) -> None:
    """Half of a character (a surrogate without its other half) can be written nowhere."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        broken = error.object[error.start : error.end].encode("unicode_escape").decode()
        raise RefusalError(f"The settings hold half a character ({broken}): send whole ones.") from None


def _of_kind(name: str, upload: Upload) -> Path:
    """The path of an upload; refuses a video where a picture is needed, and so on."""
    wanted, is_there = _KINDS.get(name, _MASK_KINDS), upload.facts["kind"]
    if is_there not in wanted:
        raise RefusalError(f"'{name}' is a {' or '.join(wanted)}, but the upload is a {is_there}.")
    if name == "audio" and upload.facts.get("sound") is False:
        raise RefusalError("'audio' is to be sound, but there is none in that video.")
    return upload.path


def _offered_model(name: Any, settings: ServiceSettings) -> str | None:
    offered = settings.models
    if name is None:
        return offered[0] if offered else None
    if name not in offered:
        told = ", ".join(offered) if offered else "only the embedded one, which needs no name"
        raise RefusalError(f"This service offers no model {short(name)}; it offers {told}.")
    return str(name)


def _offered_loras(names: Any, settings: ServiceSettings) -> list[str]:
    if names is not None and not isinstance(names, list):
        raise RefusalError(f"'lora' is a list of names, not {short(names)}.")
    given = [_offered_lora(each, settings) for each in names or []]
    if len(set(given)) < len(given):
        raise RefusalError("'lora' names one of them twice: once is enough.")
    return given


def _offered_lora(name: Any, settings: ServiceSettings) -> str:
    if not isinstance(name, str) or name not in settings.loras:
        told = ", ".join(settings.loras) or "none"
        raise RefusalError(f"This service offers no LoRA {short(name)}; it offers {told}.")
    return settings.loras[name]
