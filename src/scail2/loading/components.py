"""From the files of a pipeline to its components."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scail2.checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.checkpoints.transformer_config import diffusers_folder
from scail2.checkpoints.transformer_files import read_transformer
from scail2.checkpoints.views import main_number
from scail2.devices import wanted_dtype
from scail2.errors import InputError
from scail2.files.documents import decode, load_json
from scail2.loading.component_files import COMPANIONS, ComponentFiles, check_companions, find_components
from scail2.models.component_folders import load_component_folder
from scail2.models.transformer import SCAIL2Transformer3DModel

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline


def load_tokenizer(files: ComponentFiles) -> Any:
    """umT5's tokenizer from its folder, or from the copy ComfyUI packs into the text encoder's file."""
    from transformers import AutoTokenizer, T5Tokenizer

    if files.tokenizer is not None:
        kind = AutoTokenizer if (files.tokenizer / "tokenizer_config.json").is_file() else T5Tokenizer
        return load_component_folder(kind, files.tokenizer)
    check_companions(files)
    if files.text_encoder is None:
        raise InputError("There is neither umT5's tokenizer folder nor a text encoder that brings it.")
    encoder = open_tensor_file(files.text_encoder)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "spiece.model").write_bytes(bytes(encoder.read("spiece_model").tolist()))
        return load_component_folder(T5Tokenizer, folder)


def load_component(name: str, files: ComponentFiles, torch_dtype: torch.dtype | None = None) -> Any:
    """One component of a pipeline beside the transformer, by its name in the pipeline; None where there is no file.

    The VAE is always float32, encoders are of ``torch_dtype`` or as stored. InputError if there is no VAE, or no
    tokenizer for a text encoder.
    """
    from scail2.pipeline.sampling import make_scheduler
    from scail2.request.presets import Solver, preset

    if name == "scheduler":
        return make_scheduler(Solver.UNIPC, preset("quality").shift)
    if name == "vae":
        check_companions(files)
        assert files.vae is not None  # refused otherwise
        return read_autoencoder(files.vae) if files.vae.is_dir() else load_vae(files.vae)
    if name == "image_encoder":
        return None if files.image_encoder is None else load_image_encoder(files.image_encoder, torch_dtype)
    if files.text_encoder is None:
        return None
    return load_tokenizer(files) if name == "tokenizer" else load_text_encoder(files.text_encoder, torch_dtype)


def folder_dtypes(
    folder: Path, names: Iterable[str], torch_dtype: torch.dtype | None, device: torch.device
) -> dict[str, torch.dtype]:
    """In which types the components of a pipeline folder are loaded, as ``from_pretrained`` takes it: the VAE in float32.

    Without ``torch_dtype`` each is as stored, but float16 on a CPU becomes float32.
    """
    dtypes = {"default": torch_dtype or torch.float32, "vae": torch.float32}
    for name in names:
        weights = any((folder / name).glob("*.safetensors*"))
        if torch_dtype is None and weights and name != "vae":
            stored = getattr(torch, main_number(open_tensor_file(folder / name)) or "bfloat16")
            # Half precision is how small models are shipped; CPUs compute in it slowly or not at all.
            dtypes[name] = torch.float32 if device.type == "cpu" and stored is torch.float16 else stored
    return dtypes


def load_transformer(
    path: str | Path,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
) -> SCAIL2Transformer3DModel:
    """Loads a SCAIL-2 transformer from any public file, folder or ``hub:owner/name``.

    Arguments, result and errors are those of `scail2.checkpoints.transformer_files.read_transformer`; ``torch_dtype`` is the
    earlier name of ``dtype``, which may also be the name of a type ("bfloat16").
    """
    return read_transformer(SCAIL2Transformer3DModel, path, config, wanted_dtype(dtype, torch_dtype))


def assemble_pipeline(
    path: str | Path,
    torch_dtype: torch.dtype | None = None,
    config: dict[str, Any] | None = None,
    leave_out: Collection[str] = (),
    *,
    as_stored: bool = False,
) -> SCAIL2Pipeline:
    """A pipeline from loose public files (see `find_components`); types as in `scail2.load_pipeline`.

    ``leave_out`` names components that are not loaded, whether there are files for them or not; ``as_stored`` keeps the
    transformer's quantised matrices as they are.
    """
    from scail2.pipeline import SCAIL2Pipeline

    if (folder := diffusers_folder(Path(path))) is not None:
        raise InputError(f"{folder} is a transformer alone: name a pipeline folder (with model_index.json).")
    files = find_components(path)
    if as_stored:
        from scail2.loading.as_stored import load_transformer_as_stored

        transformer = load_transformer_as_stored(files.transformer, config, torch_dtype)
    else:
        transformer = load_transformer(files.transformer, config, torch_dtype)
    others = {name: load_component(name, files, torch_dtype) for name in COMPANIONS if name not in leave_out}
    return SCAIL2Pipeline(transformer=transformer, **others)


@lru_cache(maxsize=2)
def load_autoencoder(folder: Path) -> nn.Module:
    """`read_autoencoder`, read once however often it is asked for: nobody may change it."""
    return read_autoencoder(folder)


def read_autoencoder(folder: Path) -> nn.Module:
    """The autoencoder in a diffusers folder, of the class its config names (ours or diffusers'), in float32.

    Raises:
        InputError: no such folder, a class that is not an autoencoder of ours or diffusers', or tensors that do not fit.
    """
    import diffusers

    from scail2.models import autoencoder

    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"no autoencoder in {folder}: it needs config.json and weights in diffusers' layout")
    name = decode(load_json(config, dict[str, Any]).get("_class_name", ""), str, config, "_class_name")
    known = [getattr(module, name, None) for module in (autoencoder, diffusers)] if name.startswith("Auto") else []
    cls = next((each for each in known if each is not None), None)
    if cls is None:
        raise InputError(f"{config}: {name!r} is no autoencoder class of scail2 or diffusers")
    return load_component_folder(cls, folder, torch_dtype=torch.float32).eval()
