"""Where to compute, and in which numbers: the device that was named, or the one that a run takes by itself.

PyTorch is imported by what asks it: the names alone are needed wherever settings are read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scail2.errors import InputError, short

if TYPE_CHECKING:
    import torch

_ACCELERATORS = ("cuda", "xpu", "mps")
# What the drivers of NVIDIA (also under Windows' Linux), AMD and Intel show of themselves.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")

Function = TypeVar("Function", bound=Callable[..., Any])


class Precision(StrEnum):
    """Number format of weights and computation."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @classmethod
    def parse(cls, name: str) -> Precision:
        """The number format of that name; `InputError` for others."""
        if name not in set(cls):
            raise InputError(f"{short(name)} is no type for weights: choose one of {', '.join(cls)}.")
        return cls(name)

    @property
    def torch_dtype(self) -> torch.dtype:
        """PyTorch's name for it."""
        import torch

        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self]


def wanted_dtype(dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The number format that a function with the arguments ``dtype`` and, as it was called before, ``torch_dtype`` is asked for.

    Raises:
        InputError: both are given and differ, or it is no number format for weights.
    """
    import torch

    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise InputError(f"dtype is {dtype} and torch_dtype {torch_dtype}: they mean the same, so give dtype alone.")
    asked = torch_dtype if dtype is None else dtype
    if asked is None or asked in (torch.float32, torch.bfloat16, torch.float16):
        return asked
    name = str(asked).removeprefix("torch.")
    return Precision.parse(name).torch_dtype


def default_device() -> torch.device:
    """The first CUDA (or ROCm) or XPU device, else the CPU. Metal ("mps") must be named."""
    import torch

    found = (kind for kind in ("cuda", "xpu") if count_devices(kind))
    return torch.device(next(found, "cpu"))


def default_kind() -> str:
    """The kind of `default_device`; imports torch only where the system has a driver of something that computes."""
    if sys.platform == "linux" and not any(Path(each).exists() for each in _DRIVERS):
        return "cpu"
    return default_device().type


@lru_cache(maxsize=1)
def cpu_has_native_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware; asked of Linux itself, elsewhere of torch."""
    flags = ("avx512_bf16", "amx_bf16")
    try:
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return not set(flags).isdisjoint(found[1].split())
    import torch

    return any(torch.cpu.get_capabilities().get(each) for each in flags)


def find_device(device: str | torch.device) -> torch.device:
    """The device of that name (cpu, cuda, cuda:1, mps, …). Raises `InputError` where this machine has none such."""
    import torch

    usable = [f"{kind}:{number}" for kind in _ACCELERATORS for number in range(count_devices(kind))]
    advice = f"use {', '.join(['cpu', *usable])}"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise InputError(f"There is no kind of device called {device!r}: {advice}.") from None
    if (found.index or 0) >= count_devices(found.type):
        raise InputError(f"PyTorch finds no device {found} on this machine: {advice}.")
    return found


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware: without that it is slower than fp32."""
    import torch

    if device.type == "cpu":
        return cpu_has_native_bf16()
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type in ("xpu", "mps")


def without_gradients(function: Function) -> Function:
    """`torch.no_grad` as a decorator that type checkers see through; of a generator, each time that it goes on."""
    import torch

    return torch.no_grad()(function)


def execution_device(module: torch.nn.Module) -> torch.device:
    """Where a module computes, which is not where its weights are while they are offloaded."""
    from diffusers.utils.torch_utils import get_module_execution_device

    return get_module_execution_device(module)


def count_devices(kind: str) -> int:
    """How many devices of a kind PyTorch can use now; the CPU is one."""
    import torch

    if kind == "cpu":
        return 1
    module = getattr(torch, kind, None)
    return getattr(module, "device_count", lambda: 0)()
