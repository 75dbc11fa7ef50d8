"""What the passes of one segment have in common, remembered between them and never trusted unseen.

A segment is sampled with one set of conditions: the tokens of its pictures and the keys and values of its prompt are
the same in every step. `SegmentMemory` belongs to the caller, one for a segment; the network keeps nothing itself. What
it holds is used again only if the inputs it came from are equal, value by value, and no weight has changed since.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Remembered:
    inputs: tuple[Any, ...]
    value: Any


class SegmentMemory:
    """Hand a fresh one to every segment's calls of the transformer, ``transformer(..., memory=memory)``.

    A pass with it gives what a pass without it gives, up to the rounding of one matrix product. Adapters that are
    switched, scaled or fused, weights that are moved, cast, loaded or written to, and other conditions are noticed, and
    the result is computed anew. Only writing into ``parameter.data`` by hand goes unnoticed: call :meth:`forget` then.

    Args:
        shares_steps: several passes are made at one step (guidance). The first block's self-attention, which sees no
            prompt, is then kept from the first of them: one more float32 residual stream in memory.
    """

    def __init__(self, *, shares_steps: bool = False):
        self.shares_steps = shares_steps
        self._kept: dict[str, list[_Remembered]] = {}
        self._weights: list[Any] = []

    def forget(self) -> None:
        """Drop everything."""
        self._kept, self._weights = {}, []

    def check_weights(self, model: nn.Module) -> None:
        """Forget everything if any weight or adapter setting of ``model`` is another than at the last call."""
        weights = list(_weights_state(model))
        if weights != self._weights:
            self.forget()
            self._weights = weights

    def recall(self, kind: str, inputs: tuple[Any, ...], make: Callable[[], T], *, keep: int = 1) -> T:
        """What ``make`` gave for equal ``inputs`` (tensors, None, comparable values), else what it gives now.

        Args:
            keep: results of this kind that are remembered; the oldest is dropped before another is made.
        """
        kept = self._kept.setdefault(kind, [])
        for entry in kept:
            if all(map(_same, inputs, entry.inputs)):
                return entry.value
        del kept[: max(0, len(kept) - keep + 1)]
        value = make()
        kept.append(_Remembered(tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in inputs), value))
        return value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        alike = (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)
        return alike and torch.equal(one, other)
    return type(one) is type(other) and one == other


@dataclass(frozen=True, eq=False, slots=True)
class _Held:
    """A tensor, equal to itself only; held, so that no other can come to have its identity."""

    tensor: torch.Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self.tensor is other.tensor


def _weight_state(tensor: torch.Tensor) -> tuple:
    version = None if tensor.is_inference() else tensor._version
    return _Held(tensor), version, _address(tensor), tensor.dtype, tensor.device, tensor.shape


def _address(tensor: torch.Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # wrappers of quantised tensors have no storage of their own
        return 0


def _weights_state(model: nn.Module) -> Iterable[Any]:
    """Every weight's identity and version, every adapter's scale and state, and what autocast makes of them."""
    kind = next(model.parameters()).device.type
    yield (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    yield from map(_weight_state, chain(model.parameters(), model.buffers()))
    for module in model.modules():
        own = vars(module)
        if "scaling" in own:
            yield (
                dict(own["scaling"]),
                tuple(own.get("merged_adapters", ())),
                str(own.get("_active_adapter")),
                own.get("_disable_adapters"),
            )
