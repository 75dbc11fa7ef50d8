"""What a file is, in words and numbers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scail2.checkpoints import official_names as names
from scail2.checkpoints.dialects import view_transformer
from scail2.checkpoints.model_folder import check_pipeline, read_config
from scail2.checkpoints.stored import TensorFile
from scail2.checkpoints.tensor_files import open_tensor_file, total_bytes
from scail2.checkpoints.transformer_config import diffusers_folder, resolve_config
from scail2.checkpoints.transformer_files import build_without_memory
from scail2.checkpoints.views import compare
from scail2.errors import InputError
from scail2.loading.component_files import FileKind, kind_of
from scail2.models.transformer import SCAIL2Transformer3DModel

# The halves of low-rank pairs whose rows are their ranks, in the spellings of peft, kohya and diffusers.
_LORA_DOWN = re.compile(r"lora_A|lora[._]down")


@dataclass(frozen=True, kw_only=True)
class FileDescription:
    """What `scail2 info` says about a file or folder.

    Attributes:
        kind: transformer, vae, text_encoder, image_encoder, lora, pipeline or unknown.
        dialect: for a transformer, which of the public layouts.
        tensors, parameters, bytes: as stored (parameters without scales and markers).
        formats: storage format -> number of tensors.
        config: a transformer's configuration in published words, as far as the file shows it.
        ranks: of a LoRA's low-rank pairs.
        complete: whether names and shapes are exactly those of the configuration; None if that is not known.
        problem: why not, in a sentence.
        components: of a pipeline folder, name -> class and size of its weights.
    """

    path: str
    kind: str
    dialect: str | None = None
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    complete: bool | None = None
    problem: str | None = None
    components: dict[str, str] = field(default_factory=dict)


def describe(path: str | Path) -> FileDescription:
    """Describes a weight file, a transformer folder or a pipeline folder without loading weights.

    Raises InputError for a path that does not exist or is no weight file.
    """
    path = Path(path)
    index = path / "model_index.json"
    if index.is_file():
        classes = {name: kind for name, (_, kind) in check_pipeline(path).items() if kind}
        components = {name: kind + _weights_in_words(path / name) for name, kind in classes.items()}
        return FileDescription(path=str(path), kind="pipeline", components=components)
    file = open_tensor_file(diffusers_folder(path) or path)
    kind = FileKind.TRANSFORMER if diffusers_folder(path) else kind_of(file)
    facts = {
        "path": str(path),
        "kind": kind.value,
        "tensors": len(file.tensors),
        "parameters": sum(torch.Size(info.shape).numel() for info in file.tensors.values()),
        "bytes": total_bytes(file.tensors.values()),
        "formats": dict(Counter(info.format for info in file.tensors.values()).most_common()),
    }
    if kind is FileKind.LORA:
        facts["ranks"] = sorted({info.shape[0] for name, info in file.tensors.items() if _LORA_DOWN.search(name)})
    return (
        FileDescription(**facts | _transformer_facts(path, file))
        if kind is FileKind.TRANSFORMER
        else FileDescription(**facts)
    )


def _weights_in_words(folder: Path) -> str:
    if not any(folder.glob("*.safetensors")):
        return ""
    infos = open_tensor_file(folder).tensors.values()
    parameters = sum(torch.Size(info.shape).numel() for info in infos)
    formats = ", ".join(sorted({info.format for info in infos}))
    return f", {parameters / 1e6:,.1f} million parameters, {total_bytes(infos) / 2**30:.2f} GiB, {formats}"


def _transformer_facts(path: Path, file: TensorFile) -> dict[str, Any]:
    try:
        view = view_transformer(file)
    except InputError as error:
        return {"complete": False, "problem": str(error)}
    parameters = sum(torch.Size(shape).numel() for shape in view.shapes.values())
    facts: dict[str, Any] = {"dialect": view.dialect.value, "parameters": parameters}
    try:
        folder = diffusers_folder(path)
        model = build_without_memory(
            SCAIL2Transformer3DModel, view, read_config(folder) if folder else resolve_config(view)
        )
    except InputError as error:
        inferred = names.infer_config(view.shapes)
        words = {theirs: inferred[ours] for ours, theirs in names.OUR_WORDS.items() if ours in inferred}
        return facts | {"config": words, "problem": str(error)}
    facts["config"] = names.config_to_official(model.config)
    wanted = {names.to_official_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    try:
        compare(view, wanted, "a SCAIL-2 transformer of its configuration")
    except InputError as error:
        return facts | {"complete": False, "problem": str(error)}
    return facts | {"complete": True}
