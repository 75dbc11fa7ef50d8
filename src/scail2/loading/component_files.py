"""The files of a pipeline: what each one is (by its content, not its name), and which lie beside a transformer.

Headers tell that; neither weights nor torch are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from scail2.checkpoints.lora_names import is_lora
from scail2.checkpoints.pickle_files import PICKLE_SUFFIXES
from scail2.checkpoints.stored import TensorFile
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.errors import InputError

logger = logging.getLogger(__name__)

# Folders of a ComfyUI installation that hold transformers, and where its other files lie beside them.
_COMFY_TRANSFORMERS = ("diffusion_models", "unet", "checkpoints")
_COMFY_OTHERS = ("vae", "text_encoders", "clip", "clip_vision")
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
_SUFFIXES = (".safetensors", ".gguf", *PICKLE_SUFFIXES)
_WAN_22_CHANNELS = 48
COMPANIONS = ("scheduler", "vae", "tokenizer", "text_encoder", "image_encoder")  # of the transformer, in a pipeline
# Of these what is needed only until the prompt and the reference picture are encoded.
ENCODERS = ("tokenizer", "text_encoder", "image_encoder", "image_processor")


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
    if is_lora(file.tensors):
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
    chosen: dict[str, Path | None] = {key: Path(value) for key, value in given.items() if value is not None}
    if path.is_file():
        chosen["transformer"] = path
    for kind, paths in found.items():
        if len(paths) > 1:
            listed = ", ".join(str(each) for each in paths)
            raise InputError(f"There are several files for the {kind} near {path}, name one of them: {listed}.")
        chosen[kind.value] = paths[0]
    if "transformer" not in chosen:
        raise InputError(f"{path} holds no SCAIL-2 transformer.")
    chosen.setdefault("tokenizer", next(_tokenizers(path if path.is_dir() else path.parent), None))
    return ComponentFiles(
        transformer=Path(chosen["transformer"] or path),
        vae=chosen.get("vae"),
        text_encoder=chosen.get("text_encoder"),
        tokenizer=chosen.get("tokenizer"),
        image_encoder=chosen.get("image_encoder"),
    )


def check_companions(files: ComponentFiles) -> None:
    """Raises InputError where a file is absent without which a pipeline cannot be put together."""
    if files.vae is None:
        raise InputError(f"There is no VAE near {files.transformer}: put Wan2.1_VAE.pth beside it, or name it.")
    if files.text_encoder is not None and files.tokenizer is None:
        encoder = open_tensor_file(files.text_encoder)
        if "spiece_model" not in encoder.tensors:
            raise InputError(
                f"{files.text_encoder} comes without a tokenizer: put umT5's tokenizer folder (google/umt5-xxl) beside it."
            )


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
