"""A transformer is given another attention kernel, compiled, or told to reuse steps; nothing beyond it changes."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

import torch

from scail2.errors import InputError
from scail2.request.placement import Placement
from scail2.request.speed import TAYLOR_FIRST, TAYLOR_INTERVAL, AttentionKernel, Magnitudes, Speed, StepCache

# diffusers' names, and the packages that bring the kernels (none: PyTorch has them).
_KERNELS = {
    AttentionKernel.SDPA: ("native", None),
    AttentionKernel.FLASH: ("flash", "flash-attn"),
    AttentionKernel.FLASH3: ("_flash_3", "flash-attn 3, built from its repository"),
    AttentionKernel.SAGE: ("sage", "sageattention"),
    AttentionKernel.CUDNN: ("_native_cudnn", None),
}
# How far the first block's result may move, as a share of it, while the others' are taken from the step before.
FIRST_BLOCK_THRESHOLD = 0.08
# How much of what blocks add may be missed over the steps that are guessed in a row, and how many these may be. (diffusers'
# defaults. In the first fifth of the steps nothing is guessed.)
MAG_THRESHOLD, MAG_SKIPS = 0.06, 3


def speed_up(
    transformer: Any, device: torch.device, speed: Speed, placement: Placement, magnitudes: Magnitudes | None = None
) -> None:
    """Applies the choices to a transformer that has been placed.

    Args:
        magnitudes: of this transformer; `StepCache.MAG` needs them.

    Raises:
        InputError: a kernel's package or device is missing, or two choices exclude each other.
    """
    check_speed(device.type, speed, placement)
    if speed.attention is not AttentionKernel.AUTO:
        set_attention(transformer, device, speed.attention)
    if speed.cache is not StepCache.OFF:
        _cache_steps(transformer, speed.cache, magnitudes)
    if speed.compile:
        # One block for all: a second shape of tokens, such as a shorter last segment, compiles it once more.
        transformer.compile_repeated_blocks(fullgraph=True)


def check_speed(kind: str, speed: Speed, placement: Placement) -> None:
    """Refuses, before anything is loaded, choices that `speed_up` cannot carry out.

    Args:
        kind: of device (cpu, cuda, …).
        placement: an ``auto`` one is chosen so that compiled weights stay.

    Raises:
        InputError: see `speed_up`.
    """
    if speed.attention is not AttentionKernel.AUTO:
        _backend(kind, speed.attention)
    if speed.compile:
        _check_compilation(kind, speed, placement)


def set_attention(transformer: Any, device: torch.device, kernel: AttentionKernel) -> None:
    """Has this transformer, and no other model of the process, compute attention with a kernel."""
    backend = _backend(device.type, kernel)
    for part in transformer.modules():
        processor = getattr(part, "processor", None)
        if processor is not None and hasattr(processor, "_attention_backend"):
            processor._attention_backend = backend


def _backend(kind: str, kernel: AttentionKernel) -> Any:
    """diffusers' name of a kernel that works on such a device; InputError where it does not."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _check_attention_backend_requirements

    name, package = _KERNELS[kernel]
    if kernel is not AttentionKernel.SDPA and kind != "cuda":
        raise InputError(f"Attention {kernel} needs an NVIDIA GPU; on {kind} use --attention sdpa.")
    backend = AttentionBackendName(name)
    try:
        _check_attention_backend_requirements(backend)
    except (RuntimeError, ImportError, ValueError) as error:
        raise InputError(
            f"Attention {kernel} needs {package or 'another build of PyTorch'}, which is not here."
        ) from error
    return backend


def _cache_steps(transformer: Any, cache: StepCache, magnitudes: Magnitudes | None) -> None:
    from diffusers import FirstBlockCacheConfig

    from scail2.pipeline.step_caches import MagnitudeCacheConfig, taylorseer_config

    if cache is StepCache.FIRST_BLOCK:
        config = FirstBlockCacheConfig(threshold=FIRST_BLOCK_THRESHOLD)
    elif cache is StepCache.TAYLORSEER:
        config = taylorseer_config(
            cache_interval=TAYLOR_INTERVAL,
            disable_cache_before_step=TAYLOR_FIRST,
            taylor_factors_dtype=torch.float32,
        )
    else:
        assert magnitudes is not None
        config = MagnitudeCacheConfig(magnitudes=magnitudes, threshold=MAG_THRESHOLD, max_skip_steps=MAG_SKIPS)
    transformer.enable_cache(config)


def _check_compilation(kind: str, speed: Speed, placement: Placement) -> None:
    if placement.offloads:
        raise InputError(f"--compile needs weights that stay: --placement {placement.kind} moves them at every step.")
    if speed.cache is not StepCache.OFF:
        raise InputError(f"--compile and --cache {speed.cache} exclude each other: a cache decides block by block.")
    compiler = os.environ.get("CXX", "g++")
    if kind == "cpu" and shutil.which(compiler) is None:
        raise InputError(f"--compile needs a C++ compiler on a CPU: {compiler} is not here.")
    if kind == "cuda" and find_spec("triton") is None:
        raise InputError("--compile needs triton on a GPU, which is not here: pip install triton.")
