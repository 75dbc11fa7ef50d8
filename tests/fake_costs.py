"""Counts what a computation does: operations of every kernel, and bytes that live at once, on tensors without numbers."""

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATTENTION = "attention"
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_KINDS = {"mm": "matmul", "addmm": "matmul", "bmm": "matmul", "baddbmm": "matmul", "convolution": "convolution"}


@dataclass
class Costs(TorchDispatchMode):
    """Use it as a context. torch's own counter hooks modules, which then work differently, and passes CPU attention over.

    Attributes:
        operations: by kind: matmul, attention, convolution.
        peak: bytes of the storages that lived at once, of those made inside.
    """

    operations: Counter = field(default_factory=Counter)
    live: int = 0
    peak: int = 0

    def __post_init__(self):
        super().__init__()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet is _CPU_ATTENTION:
            query, key = args[0].shape, args[1].shape
            self.operations[ATTENTION] += 4 * query[0] * query[1] * query[2] * key[2] * query[3]
        elif packet in flop_registry:
            kind = _KINDS.get(packet.__name__, ATTENTION if "attention" in packet.__name__ else packet.__name__)
            self.operations[kind] += flop_registry[packet](*args, **kwargs, out_val=result)
        inputs = {storage_of(each) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and storage_of(each) not in inputs:
                self._watch(each.untyped_storage())
        return result

    def _watch(self, storage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def costs_of(run: Callable[[], object]) -> Costs:
    """What a call costs, without gradients; what it returns counts as living until the end."""
    with torch.no_grad(), Costs() as costs:
        kept = run()
    del kept
    return costs
