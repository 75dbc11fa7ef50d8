"""A loaded pipeline is put where a `Placement` says: onto a device whole, in turns, in smaller numbers."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scail2.budget.machines import main_memory
from scail2.errors import InputError
from scail2.models.chunked import take_tokens_in_chunks
from scail2.models.streamed_autoencoder import stream_autoencoder
from scail2.request.placement import AUTOENCODER_TILE, Placement, PlacementKind, WeightStorage

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline

logger = logging.getLogger(__name__)

# Page-locked memory cannot be swapped out: at most this share of what is free is taken.
_PINNED_SHARE = 0.5
# What quantises, by form of the weights.
_QUANTISERS = {WeightStorage.INT8: "torchao.quantization", WeightStorage.NF4: "bitsandbytes.nn"}


def place_pipeline(pipe: SCAIL2Pipeline, device: torch.device, placement: Placement) -> SCAIL2Pipeline:
    """Puts a pipeline's networks where they work, and its transformer into the form in which it is kept.

    Encoders that are components of the pipeline go to the device; under a placement that frees them they are none.

    Args:
        placement: one that was chosen, not ``auto``.

    Raises:
        InputError: a package is missing, or the device cannot do it.
    """
    store_weights(pipe.transformer, placement.storage, device)
    if placement.vae_bf16:
        pipe.vae.to(torch.bfloat16)
    stream_autoencoder(pipe.vae, AUTOENCODER_TILE if placement.vae_tiled else None)
    if placement.token_chunk is not None:
        transformer = pipe.transformer
        take_tokens_in_chunks(transformer.blocks, placement.token_chunk, lambda: transformer.is_cache_enabled)
    for name, component in pipe.components.items():
        if isinstance(component, nn.Module) and not (name == "transformer" and placement.offloads):
            component.to(device)
    if placement.offloads:
        offload_transformer(pipe.transformer, device, placement)
    return pipe


def offload_transformer(transformer: Any, device: torch.device, placement: Placement) -> None:
    """Weights wait in main memory and visit the device; where it has streams, beside the computation."""
    blockwise = placement.kind is PlacementKind.BLOCK_OFFLOAD
    streams = device.type == "cuda" and placement.prefetched_blocks > 0
    pinned = streams and placement.pinned and _may_pin(transformer)
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level" if blockwise else "leaf_level",
        num_blocks_per_group=1 if blockwise else None,
        use_stream=streams,
        record_stream=streams,
        # Without: every weight is page-locked once. With: anew for each visit, which is slower and needs no more memory.
        low_cpu_mem_usage=not pinned,
    )


def _may_pin(transformer: nn.Module) -> bool:
    size = sum(each.nbytes for each in transformer.parameters())
    if size <= _PINNED_SHARE * main_memory()[1]:
        return True
    logger.warning(
        "Less than half of the free main memory would be left if %.1f GiB of weights were page-locked: they are copied to the "
        "GPU more slowly.",
        size / 2**30,
    )
    return False


def store_weights(transformer: Any, storage: WeightStorage, device: torch.device) -> None:
    """Brings the blocks' linear layers into the form in which they are kept between their uses.

    LoRAs must have been fused before. ``full`` and ``stored`` change nothing here: that is how they were loaded.

    Raises:
        InputError: see `check_storage`.
    """
    check_storage(storage)
    if storage is WeightStorage.FP8:
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=transformer.dtype)
    elif storage is WeightStorage.INT8:
        _quantise_int8(transformer)
    elif storage is WeightStorage.NF4:
        _quantise_nf4(transformer, device)


def check_storage(storage: WeightStorage, *, fused: bool = False) -> None:
    """Refuses, before anything is loaded, a form of the weights that they cannot be brought into here.

    Args:
        fused: whether LoRAs are to become part of them.

    Raises:
        InputError: a package is missing, or LoRAs are to be fused into weights as stored.
    """
    if fused and storage is WeightStorage.STORED:
        raise InputError("LoRAs are fused into whole numbers, not into weights as stored: use --weights full or fp8.")
    if (module := _QUANTISERS.get(storage)) is None:
        return
    package = module.partition(".")[0]
    _hush(package, "torch.utils._pytree")
    try:
        import_module(module)
    except ImportError as error:
        raise InputError(f"{storage} weights need {package}: pip install 'scail2[quantised]'.") from error


def _quantise_int8(transformer: nn.Module) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(transformer, Int8WeightOnlyConfig(), filter_fn=lambda module, name: is_block_linear(module, name))


def _quantise_nf4(transformer: nn.Module, device: torch.device) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in [(name, each) for name, each in transformer.named_modules() if is_block_linear(each, name)]:
        made = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        made.weight = Params4bit(layer.weight.data.contiguous(), requires_grad=False, quant_type="nf4", module=made)
        made.bias = layer.bias
        owner, _, leaf = name.rpartition(".")
        setattr(transformer.get_submodule(owner), leaf, made.to(device))


def _hush(*loggers: str) -> None:
    """Keeps remarks about kernels that are missing on this machine to the libraries; others take their place."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)


def is_block_linear(module: nn.Module, name: str) -> bool:
    """Whether a module of the transformer is one of the large matrices that are 98 % of its weights."""
    return isinstance(module, nn.Linear) and name.startswith("blocks.")
