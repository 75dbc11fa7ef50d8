"""Adapters on a small card: the weights they leave as they are lie in few bytes, and in main memory where asked.

A block's matrices come to the device, whole numbers again, while the block works, and its gradients are computed there and
then: nothing of a forward pass is kept but the block's input, which may wait in main memory, too. The backward pass computes
the block again in two parts, and all of it that works token by token a few tokens at a time. Gradients are those of ordinary
training with the same numbers; a network without gradients works as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from scail2.errors import InputError
from scail2.models.direct import modulation_of
from scail2.request.placement import WeightStorage
from scail2.training.config import FrozenConfig

# Weights that share a scale, by bitsandbytes.
_NF4_BLOCK = 64


def keep_frozen(transformer: nn.Module, config: FrozenConfig) -> None:
    """Takes the matrices that are not trained out of the blocks of a transformer with adapters; blocks fetch them.

    Until then weights lie in main memory. Afterwards their parameters are empty, also when the network is moved; how many
    numbers they were is its ``frozen_numbers``.

    Raises:
        InputError: a package is missing.
    """
    count = 0
    for block in transformer.blocks:
        layers = [each for each in block.modules() if isinstance(each, nn.Linear) and not each.weight.requires_grad]
        store = FrozenWeights([(each, _keep(each.weight.data, config.storage)) for each in layers], config.offload)
        for layer in layers:
            count += layer.weight.numel()
            layer.weight.data = layer.weight.data.new_empty(0)
        work = _Work(block, store, config.token_chunk)
        block.forward = partial(_forward, work)
    transformer.frozen_numbers = count


# ---- forms of a matrix ---------------------------------------------------------------------------------------------


class Matrix(Protocol):
    """A matrix as it is kept: tensors that can lie anywhere, and how they become whole numbers."""

    parts: tuple[Tensor, ...]

    def whole(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The matrix (out, in) in its computed type, of the parts where they are now."""


@dataclass(slots=True)
class _Full:
    parts: tuple[Tensor, ...]

    def whole(self, parts: tuple[Tensor, ...]) -> Tensor:
        return parts[0]


@dataclass(slots=True)
class _Int8:
    """Numbers times a scale for each row."""

    parts: tuple[Tensor, ...]
    dtype: torch.dtype

    def whole(self, parts: tuple[Tensor, ...]) -> Tensor:
        numbers, scale = parts
        return (numbers * scale).to(self.dtype)


@dataclass(slots=True)
class _Nf4:
    """Four bits a number, and the largest number of each block of them."""

    parts: tuple[Tensor, ...]
    shape: torch.Size
    dtype: torch.dtype

    def whole(self, parts: tuple[Tensor, ...]) -> Tensor:
        from bitsandbytes.functional import QuantState, dequantize_4bit

        packed, largest = parts
        state = QuantState(largest, self.shape, blocksize=_NF4_BLOCK, quant_type="nf4", dtype=self.dtype)
        return dequantize_4bit(packed, state)


def _keep(weight: Tensor, storage: WeightStorage) -> Matrix:
    if storage is WeightStorage.INT8:
        scale = weight.float().abs().amax(1, keepdim=True).clamp_(min=1e-12) / 127
        return _Int8(((weight.float() / scale).round_().to(torch.int8), scale), weight.dtype)
    if storage is WeightStorage.NF4:
        try:
            from bitsandbytes.functional import quantize_4bit
        except ImportError as error:
            raise InputError("nf4 weights need bitsandbytes: pip install 'scail2[quantised]'.") from error
        packed, state = quantize_4bit(weight.contiguous(), blocksize=_NF4_BLOCK, quant_type="nf4")
        return _Nf4((packed, state.absmax), weight.shape, weight.dtype)
    return _Full((weight,))


class FrozenWeights:
    """A block's matrices, which come to the device for as long as the block works.

    Args:
        offloaded: they, and what blocks keep for the backward pass, lie in main memory between visits.
    """

    def __init__(self, matrices: list[tuple[nn.Linear, Matrix]], offloaded: bool) -> None:
        self.matrices, self.offloaded = matrices, offloaded
        if offloaded and torch.cuda.is_available():
            for _, matrix in matrices:
                matrix.parts = tuple(each.pin_memory() for each in matrix.parts)

    @contextmanager
    def visiting(self, device: torch.device) -> Iterator[None]:
        """The matrices are in their layers, on the device."""
        for layer, matrix in self.matrices:
            parts = tuple(each.to(device, non_blocking=True) for each in matrix.parts)
            if not self.offloaded:
                matrix.parts = parts
            layer.weight.data = matrix.whole(parts)
        try:
            yield
        finally:
            for layer, _ in self.matrices:
                layer.weight.data = layer.weight.data.new_empty(0)

    def put_away(self, stream: Tensor) -> Tensor:
        """What the backward pass begins with, where it waits for it."""
        if not self.offloaded or stream.device.type == "cpu":
            return stream
        kept = torch.empty(stream.shape, dtype=stream.dtype, pin_memory=stream.device.type == "cuda")
        return kept.copy_(stream, non_blocking=True)


# ---- a block -------------------------------------------------------------------------------------------------------

Others = tuple[Tensor | None, Tensor, tuple[Tensor, Tensor]]
Part = Callable[[Tensor, Others], Tensor]


@dataclass(frozen=True, slots=True)
class _Work:
    """A block with its weights: what it makes of a residual stream ``(B, tokens, dim)``, and the gradients."""

    block: WanTransformerBlock
    weights: FrozenWeights
    token_chunk: int

    def forward(self, stream: Tensor, others: Others) -> Tensor:
        """Without gradients."""
        result = self._attend(stream, others)
        for rows in self._chunks(stream):
            result[:, rows] = self._rest(result[:, rows], others)
        return result

    def backward(self, stream: Tensor, gradient: Tensor, others: Others) -> Tensor:
        """Adds the adapters' gradients; returns that of the stream the block was given."""
        with torch.no_grad():
            attended = self._attend(stream, others)
        gradient = self._gradient(self._rest, attended, gradient, others, self._chunks(stream))
        del attended
        return self._gradient(self._attend, stream, gradient, others, [slice(None)])

    def _chunks(self, stream: Tensor) -> list[slice]:
        return [slice(start, start + self.token_chunk) for start in range(0, stream.shape[1], self.token_chunk)]

    def _gradient(self, part: Part, stream: Tensor, gradient: Tensor, others: Others, chunks: list[slice]) -> Tensor:
        found = torch.empty_like(stream)
        for rows in chunks:
            given = stream[:, rows].detach().requires_grad_()
            with torch.enable_grad():
                result = part(given, others)
            torch.autograd.backward(result, gradient[:, rows])
            found[:, rows] = given.grad
            del result, given
        return found

    def _attend(self, stream: Tensor, others: Others) -> Tensor:
        """Self-attention, which needs all tokens."""
        shift, scale, gate = modulation_of(self.block, others[1])[:3]
        branch = self.block.norm1(stream) * (1 + scale) + shift
        return stream + self.block.attn1(branch, None, None, others[2]) * gate

    def _rest(self, stream: Tensor, others: Others) -> Tensor:
        """Attention to prompt and picture, and the feed-forward: token by token."""
        context, modulation, _ = others
        shift, scale, gate = modulation_of(self.block, modulation)[3:]
        if context is not None:
            stream = stream + self.block.attn2(self.block.norm2(stream), context, None, None)
        return stream + self.block.ffn(self.block.norm3(stream) * (1 + scale) + shift) * gate


def _forward(
    work: _Work, stream: Tensor, context: Tensor | None, modulation: Tensor, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    """In place of a block's forward."""
    trains = stream.requires_grad or any(each.requires_grad for each in work.block.parameters())
    if torch.is_grad_enabled() and trains:
        # Something has to ask for gradients where the first block's input does not.
        anchor = torch.zeros((), device=stream.device, requires_grad=True)
        return _Visit.apply(work, anchor, stream, (context, modulation, rotary))
    with work.weights.visiting(stream.device):
        return work.forward(stream, (context, modulation, rotary))


class _Visit(torch.autograd.Function):
    """A block's pass whose backward fetches the weights and computes it again. Context and modulation get no gradients."""

    @staticmethod
    def forward(ctx: Any, work: _Work, anchor: Tensor, stream: Tensor, others: Others) -> Tensor:
        kind = stream.device.type
        ctx.work, ctx.others, ctx.kept = work, others, work.weights.put_away(stream)
        ctx.autocast = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
        with work.weights.visiting(stream.device):
            return work.forward(stream, others)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        device = gradient.device
        with ctx.work.weights.visiting(device), torch.autocast(device.type, **ctx.autocast):
            stream, ctx.kept = ctx.kept.to(device, non_blocking=True), None  # not needed twice
            found = ctx.work.backward(stream, gradient, ctx.others)
        return None, None, found if ctx.needs_input_grad[2] else None, None
