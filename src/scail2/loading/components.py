"""The files of a pipeline: what each one is (by its content, not its name), and which lie beside a transformer."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scail2.checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from scail2.checkpoints.lora_files import is_lora
from scail2.checkpoints.tensor_files import PICKLE_SUFFIXES, TensorFile, open_tensor_file
from scail2.checkpoints.transformer_files import diffusers_folder, read_transformer
from scail2.errors import InputError
from scail2.files.documents import decode, load_json
from scail2.models.component_folders import load_component_folder
from scail2.models.transformer import SCAIL2Transformer3DModel

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline

logger = logging.getLogger(__name__)

# Folders of a ComfyUI installation that hold transformers, and where its other files lie beside them.
_COMFY_TRANSFORMERS = ("diffusion_models", "unet", "checkpoints")
_COMFY_OTHERS = ("vae", "text_encoders", "clip", "clip_vision")
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
_SUFFIXES = (".safetensors", ".gguf", *PICKLE_SUFFIXES)
_WAN_22_CHANNELS = 48
COMPANIONS = ("scheduler", "vae", "tokenizer", "text_encoder", "image_encoder")  # of the transformer, in a pipeline


class FileKind(StrEnum):
    """What a weight file holds."""

    TRANSFORMER = "transformer"
    VAE = "vae"
    TEXT_ENCODER = "text_encoder"
    IMAGE_ENCODER = "image_encoder"
    LORA = "lora"
    UNKNOWN = "unknown"


# Names that only a file of the kind has. umT5 has position biases in every block (T5 in the first alone), the Wan
# autoencoder numbers its decoder's blocks through.
_MARKS = {
    FileKind.TRANSFORMER: ("patch_embedding_mask.weight", "patch_embed.proj_mask.weight"),
    FileKind.VAE: ("decoder.upsamples.0.residual.0.gamma", "decoder.up_blocks.0.resnets.0.norm1.gamma"),
    FileKind.TEXT_ENCODER: (
        "blocks.1.pos_embedding.embedding.weight",
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    FileKind.IMAGE_ENCODER: ("visual.patch_embedding.weight", "vision_model.embeddings.patch_embedding.weight"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentFiles:
    """The files or folders of one pipeline; None where there is none."""

    transformer: Path
    vae: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    image_encoder: Path | None = None


def kind_of(file: TensorFile) -> FileKind:
    """What a file holds, by the names of its tensors; UNKNOWN for a file that SCAIL-2 has no use for."""
    if is_lora(file):
        return FileKind.LORA
    matching = (kind for kind, marks in _MARKS.items() if any(name.endswith(marks) for name in file.tensors))
    kind = next(matching, FileKind.UNKNOWN)
    if kind is FileKind.VAE:
        latent = file.tensors.get("conv2.weight", file.tensors.get("post_quant_conv.weight"))
        if latent is None or latent.shape[0] == _WAN_22_CHANNELS:
            return FileKind.UNKNOWN
    return kind


def find_components(path: str | Path, **given: str | Path | None) -> ComponentFiles:
    """The files of a pipeline around a transformer: in its folder, or in the folders of a ComfyUI installation.

    Args:
        path: a transformer file, or a folder that holds one (an official repository, ComfyUI's ``models``).
        given: ``vae``, ``text_encoder``, ``tokenizer``, ``image_encoder``: named by the user, not searched.

    Raises:
        InputError: there is no transformer, or several files of one kind to choose from.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.")
    found: dict[FileKind, list[Path]] = {}
    wanted = {kind for kind in _MARKS if not given.get(kind)} - ({FileKind.TRANSFORMER} if path.is_file() else set())
    for candidate in _candidates(path):
        if candidate != path and (kind := _kind_or_unknown(candidate)) in wanted:
            found.setdefault(kind, []).append(candidate)
    chosen = {key: Path(value) for key, value in given.items() if value is not None}
    transformer = path if path.is_file() else None
    for kind, paths in found.items():
        if len(paths) > 1:
            listed = ", ".join(str(each) for each in paths)
            raise InputError(f"There are several files for the {kind} near {path}, name one of them: {listed}.")
        if kind is FileKind.TRANSFORMER:
            transformer = paths[0]
        else:
            chosen[kind.value] = paths[0]
    if transformer is None:
        raise InputError(f"{path} holds no SCAIL-2 transformer.")
    tokenizer = chosen.pop("tokenizer", None) or next(_tokenizers(path if path.is_dir() else path.parent), None)
    return ComponentFiles(transformer=transformer, tokenizer=tokenizer, **chosen)


def _candidates(path: Path) -> Iterator[Path]:
    """Weight files that may belong to a pipeline: shards through their index only."""
    for folder in dict.fromkeys(_folders(path)):
        indices = sorted(folder.glob("*.safetensors.index.json"))
        yield from indices
        for file in sorted(folder.iterdir()):
            if file.suffix in _SUFFIXES and not (indices and "-of-" in file.name):
                yield file


def _folders(path: Path) -> Iterator[Path]:
    folder = path if path.is_dir() else path.parent
    comfy = folder.parent if folder.name in _COMFY_TRANSFORMERS else folder
    if any((comfy / name).is_dir() for name in _COMFY_TRANSFORMERS):
        names = (*_COMFY_TRANSFORMERS, *_COMFY_OTHERS) if path.is_dir() else _COMFY_OTHERS
        yield from (each for each in (folder, *(comfy / name for name in names)) if each.is_dir())
        return
    # Official repositories keep files at their top and in folders of their own (model/1, umt5-xxl).
    yield folder
    if path.is_dir():
        yield from sorted(each for depth in ("*", "*/*") for each in folder.glob(depth) if each.is_dir())


def _kind_or_unknown(path: Path) -> FileKind:
    try:
        return kind_of(open_tensor_file(path))
    except InputError as error:
        logger.info("Left out while looking for a pipeline's files: %s", error)
        return FileKind.UNKNOWN


def _tokenizers(folder: Path) -> Iterator[Path]:
    for pattern in ("tokenizer", "google/umt5-xxl", "umt5-xxl", "umt5-xxl/google/umt5-xxl", "."):
        if any((folder / pattern / name).is_file() for name in _TOKENIZER_FILES):
            yield folder / pattern


def load_tokenizer(files: ComponentFiles) -> Any:
    """umT5's tokenizer from its folder, or from the copy ComfyUI packs into the text encoder's file."""
    from transformers import AutoTokenizer, T5Tokenizer

    if files.tokenizer is not None:
        kind = AutoTokenizer if (files.tokenizer / "tokenizer_config.json").is_file() else T5Tokenizer
        return load_component_folder(kind, files.tokenizer)
    if files.text_encoder is None:
        raise InputError("There is neither umT5's tokenizer folder nor a text encoder that brings it.")
    encoder = open_tensor_file(files.text_encoder)
    if "spiece_model" not in encoder.tensors:
        raise InputError(
            f"{files.text_encoder} comes without a tokenizer: put umT5's tokenizer folder (google/umt5-xxl) beside it."
        )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "spiece.model").write_bytes(bytes(encoder.read("spiece_model").tolist()))
        return load_component_folder(T5Tokenizer, folder)


def load_component(name: str, files: ComponentFiles, torch_dtype: torch.dtype | None = None) -> Any:
    """One component of a pipeline beside the transformer, by its name in the pipeline; None where there is no file.

    The VAE is always float32, encoders are of ``torch_dtype`` or as stored. InputError if there is no VAE, or no
    tokenizer for a text encoder.
    """
    from scail2.pipeline.presets import Solver, preset
    from scail2.pipeline.sampling import make_scheduler

    if name == "scheduler":
        return make_scheduler(Solver.UNIPC, preset("quality").shift)
    if name == "vae":
        if files.vae is None:
            raise InputError(f"There is no VAE near {files.transformer}: put Wan2.1_VAE.pth beside it, or name it.")
        return load_vae(files.vae)
    if name == "image_encoder":
        return None if files.image_encoder is None else load_image_encoder(files.image_encoder, torch_dtype)
    if files.text_encoder is None:
        return None
    return load_tokenizer(files) if name == "tokenizer" else load_text_encoder(files.text_encoder, torch_dtype)


def load_transformer(
    path: str | Path, config: Mapping[str, Any] | None = None, torch_dtype: torch.dtype | None = None
) -> SCAIL2Transformer3DModel:
    """Loads a SCAIL-2 transformer from any public file, folder or ``hub:owner/name``.

    Arguments, result and errors are those of `scail2.checkpoints.transformer_files.read_transformer`.
    """
    return read_transformer(SCAIL2Transformer3DModel, path, config, torch_dtype)


def assemble_pipeline(
    path: str | Path, torch_dtype: torch.dtype | None = None, config: dict[str, Any] | None = None
) -> SCAIL2Pipeline:
    """A pipeline from loose public files (see `find_components`); types as in `scail2.load_pipeline`."""
    from scail2.pipeline import SCAIL2Pipeline

    if (folder := diffusers_folder(Path(path))) is not None:
        raise InputError(f"{folder} is a transformer alone: name a pipeline folder (with model_index.json).")
    files = find_components(path)
    transformer = load_transformer(files.transformer, config, torch_dtype)
    others = {name: load_component(name, files, torch_dtype) for name in COMPANIONS}
    return SCAIL2Pipeline(transformer=transformer, **others)


@lru_cache(maxsize=2)
def load_autoencoder(folder: Path) -> nn.Module:
    """The autoencoder in a diffusers folder, of the class its config names (ours or diffusers').

    Raises:
        InputError: no such folder, or a class that is not an autoencoder of ours or diffusers'.
    """
    import diffusers

    from scail2.models import autoencoder

    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"no autoencoder in {folder}: it needs config.json and weights in diffusers' layout")
    name = decode(load_json(config, dict[str, Any]).get("_class_name", ""), str, config, "_class_name")
    cls = getattr(autoencoder, name, None) or (getattr(diffusers, name, None) if name.startswith("Auto") else None)
    if cls is None:
        raise InputError(f"{config}: {name!r} is no autoencoder class of scail2 or diffusers")
    return load_component_folder(cls, folder, torch_dtype=torch.float32).eval()
