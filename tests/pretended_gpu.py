"""A GPU that is not there: its tensors say they are on "cuda:0", hold their numbers in main memory, and meet no others.

What a real one refuses is refused: an operation on tensors of two devices (but for single numbers and indices), and
NumPy's view of a tensor that is not on the CPU. Streams, page-locked memory and caches are there and do nothing. Without
gradients: the CPU build of PyTorch cannot walk back through operations on devices that it was not built for.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
_aten = torch.ops.aten
_TAKE_INDICES_FROM_ANYWHERE = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}
_COPY = {_aten.copy_.default, _aten.copy.default}


class _OnGPU(torch.Tensor):
    """A tensor of the pretended device around the one in main memory that holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=GPU
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"{self.held!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class _Operations(TorchDispatchMode):
    """Sees what makes tensors on the pretended device out of none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


def _compute(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given_values = tree_flatten((args, kwargs))[0]
    tensors = [each for each in given_values if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, _OnGPU)]
    here = [each for each in tensors if not isinstance(each, _OnGPU)]
    if function is _aten._has_compatible_shallow_copy_type.default:
        return not (there and here)
    if there and function is not _aten._to_copy.default and function not in _COPY:
        _refuse_two_devices(function, args, [each for each in here if each.ndim])
    if function is _aten._fused_sdp_choice.default:
        return 0  # the kernel in plain operations
    wanted = next((each for each in given_values if isinstance(each, torch.device)), None)
    if wanted is not None:
        on_gpu = wanted.type == GPU.type
    else:
        on_gpu = isinstance(args[0], _OnGPU) if function in _COPY else bool(there)
    kwargs = kwargs | {"pin_memory": False} if kwargs.get("pin_memory") else kwargs
    taken = tree_map(_in_main_memory, (args, kwargs))
    known = {id(each.held): each for each in there} | {id(each): each for each in here}

    def given(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        same = known.get(id(value))  # operations in place return what they were given
        if same is not None and isinstance(same, _OnGPU) == on_gpu:
            return same
        return _OnGPU(value) if on_gpu else value

    return tree_map(given, function(*taken[0], **taken[1]))


def _in_main_memory(value: Any) -> Any:
    if isinstance(value, _OnGPU):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _refuse_two_devices(function: Any, args: tuple[Any, ...], strays: list[torch.Tensor]) -> None:
    if function in _TAKE_INDICES_FROM_ANYWHERE and isinstance(args[0], _OnGPU):
        return
    if strays:
        raise RuntimeError(f"{function} was given tensors on {GPU} and on the CPU ({[tuple(s.shape) for s in strays]})")


class _Driver(TorchFunctionMode):
    """What the driver of a device would be asked, or do: its number, page-locked memory, weights that change place."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "__set__" and getattr(function, "__self__", None) is torch.Tensor.data:
            if isinstance(args[0], _OnGPU) or isinstance(args[1], _OnGPU):
                return _change_place(*args)
        elif name == "tolist" and isinstance(args[0], _OnGPU):
            return args[0].held.tolist()
        elif name in ("pin_memory", "is_pinned", "record_stream"):
            return {"pin_memory": args[0], "is_pinned": False}.get(name)
        if "device" in kwargs:
            kwargs["device"] = _numbered(kwargs["device"])
        if name == "to":
            args = tuple(_numbered(each) for each in args)
        return function(*args, **kwargs)


def _numbered(value: Any) -> Any:
    return GPU if value in ("cuda", torch.device("cuda")) and not isinstance(value, torch.Tensor) else value


def _change_place(target: torch.Tensor, value: torch.Tensor) -> None:
    """``target.data = value`` where one of them is on the other device: the object stays, all else is exchanged."""
    fresh = value.detach()
    if isinstance(target, torch.nn.Parameter):
        fresh = torch.nn.Parameter(fresh, requires_grad=target.requires_grad)
    torch.utils.swap_tensors(target, fresh)


class _Nothing:
    """A stream or an event: there, and never to be waited for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


_MODULE = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda *_: "pretended",
    "get_device_capability": lambda *_: (9, 0),
    "get_device_properties": lambda *_: SimpleNamespace(
        name="pretended", total_memory=80 * 2**30, major=9, minor=0, multi_processor_count=100
    ),
    "is_bf16_supported": lambda **_: True,
    "mem_get_info": lambda *_: (70 * 2**30, 80 * 2**30),
    "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0,
    "reset_peak_memory_stats": lambda *_: None,
    "empty_cache": lambda: None,
    "synchronize": lambda *_: None,
    "Stream": _Nothing,
    "Event": _Nothing,
    "current_stream": lambda *_: _Nothing(),
    "stream": lambda *_: nullcontext(),
}


@lru_cache(maxsize=1)
def _guard(folder: Path) -> None:
    """Compiles and loads what stands in for CUDA's device guard; a process has one for good."""
    library = folder / "pretended_gpu.so"
    torch_folder = Path(torch.__file__).parent
    source = Path(__file__).with_suffix(".cpp")
    command = ["g++", "-O0", "-std=c++20", "-fPIC", "-shared", source, f"-I{torch_folder / 'include'}"]
    subprocess.run([*command, f"-L{torch_folder / 'lib'}", "-lc10", "-o", library], check=True)
    ctypes.CDLL(str(library))


@contextmanager
def pretended_gpu(folder: Path) -> Iterator[torch.device]:
    """A GPU for this thread; skips the test where there is a real one, or no compiler for the guard."""
    if torch.version.cuda is not None or shutil.which("g++") is None:
        pytest.skip("needs the CPU build of PyTorch and g++")
    _guard(folder)
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) goes through the operations
    try:
        with ExitStack() as stack:
            for name, value in _MODULE.items():
                stack.enter_context(patch.object(torch.cuda, name, value))
            # Tensors around others have no versions to leave out in inference mode.
            stack.enter_context(patch.object(torch._C, "_InferenceMode", lambda _: torch.no_grad()))
            stack.enter_context(torch.no_grad())
            stack.enter_context(_Operations())
            stack.enter_context(_Driver())
            yield GPU
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
