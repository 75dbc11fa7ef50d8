"""Bytes that live at once in closed form: weights in their form, and what a stage makes beside them.

The peaks are those of `scail2.models`, term by term; tests compare them with a count of live storages. Autoencoders have
theirs in `scail2.budget.autoencoders`. What an allocator wastes and a driver reserves comes on top (`scail2.budget.machines`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from scail2.budget.operations import (
    SequenceShape,
    context_tokens,
    keeps_context,
)
from scail2.budget.shapes import (
    ImageEncoderShape,
    TextEncoderShape,
    TransformerShape,
    block_shapes,
    parameter_shapes,
)
from scail2.request.placement import WeightStorage
from scail2.request.speed import StepCache

_FLOAT = 4
# Bytes of a number in a form that is not the file's: 4-bit blocks of 64 carry a scale each.
_STORED_BYTES = {WeightStorage.FP8: 1.0, WeightStorage.INT8: 1.0, WeightStorage.NF4: 0.5 + 1 / 64 + 1 / 256}
# Parts of the transformer that stay float32 in half precision (`SCAIL2Transformer3DModel._keep_in_fp32_modules`).
_FLOAT_PARTS = frozenset(
    {"rope", "time_embedder", "time_proj", "scale_shift_table", "proj_out", "norm1", "norm2", "norm3"}
)


def weight_bytes(shapes: dict[str, tuple[int, ...]], itemsize: int) -> int:
    """Bytes of parameters in a type of ``itemsize`` bytes, float32 parts included."""
    total = 0
    for name, sizes in shapes.items():
        own = _FLOAT if itemsize < _FLOAT and not _FLOAT_PARTS.isdisjoint(name.split(".")) else itemsize
        total += own * math.prod(sizes)
    return total


@lru_cache(maxsize=64)
def block_bytes(shape: TransformerShape, itemsize: int, storage: WeightStorage = WeightStorage.FULL) -> float:
    """Bytes of one block's weights as they are kept."""
    shapes = block_shapes(shape)
    matrices = sum(math.prod(sizes) for sizes in shapes.values() if len(sizes) == 2)
    rest = weight_bytes({name: sizes for name, sizes in shapes.items() if len(sizes) != 2}, itemsize)
    return rest + matrices * _bytes_a_number(shape, itemsize, storage)


@lru_cache(maxsize=64)
def other_bytes(shape: TransformerShape, itemsize: int) -> float:
    """Bytes of what is in no block: embeddings and head."""
    return weight_bytes(
        {name: sizes for name, sizes in parameter_shapes(shape).items() if not name.startswith("blocks.")}, itemsize
    )


def largest_matrix(shape: TransformerShape, itemsize: int) -> float:
    """Bytes of a block's largest matrix in the type that is computed in: one such is there while a layer works."""
    return itemsize * shape.dim * max(shape.dim, shape.ffn_dim)


@lru_cache(maxsize=64)
def largest_layer(shape: TransformerShape, itemsize: int) -> float:
    """Bytes of the largest single layer: a block's largest matrix, the float32 projection of the timestep, or an embedding."""
    weights = {name: sizes for name, sizes in parameter_shapes(replace(shape, num_layers=1)).items() if len(sizes) > 1}
    return max(weight_bytes({name: sizes}, itemsize) for name, sizes in weights.items())


def transformer_bytes(shape: TransformerShape, itemsize: int, storage: WeightStorage = WeightStorage.FULL) -> float:
    """Bytes of all weights as they are kept."""
    return other_bytes(shape, itemsize) + shape.num_layers * block_bytes(shape, itemsize, storage)


def _bytes_a_number(shape: TransformerShape, itemsize: int, storage: WeightStorage) -> float:
    if storage is WeightStorage.STORED and shape.weights.is_quantised:
        # The file's few other tensors are small change: its bytes a parameter are its matrices' bytes a number.
        return min(float(itemsize), shape.weights.nbytes / max(1, shape.weights.parameters))
    return _STORED_BYTES.get(storage, float(itemsize))


# ---- a pass of the transformer ------------------------------------------------------------------------------------


def pass_peak(
    shape: TransformerShape,
    sequence: SequenceShape,
    itemsize: int,
    *,
    on_cpu: bool = False,
    token_chunk: int | None = None,
    direct: bool = True,
) -> float:
    """Most bytes that one forward pass has beside the weights, batch 1; its inputs are not counted.

    Args:
        itemsize: bytes of a number in the type that is computed in (2 or 4); the residual stream is float32 always.
        on_cpu: attention on a CPU has its heads laid out one by one, which copies; norms work in place.
        token_chunk: tokens that linear layers take at once.
        direct: through `scail2.models.direct`; blocks that are called as they are make new streams instead.
    """
    stream = sequence.total * shape.dim * _FLOAT
    half = sequence.total * shape.dim * itemsize
    branch = stream + (half if itemsize < _FLOAT else 0)
    inner = sequence.total * shape.ffn_dim * itemsize
    product = half + (stream if itemsize < _FLOAT else 0)
    # Beside queries, keys and values: these in float32 before heads lie in one piece, or attention's result alone.
    attending = 4 * half if on_cpu and itemsize < _FLOAT else half
    kept = _kept_by_pass(shape, sequence, itemsize)
    if token_chunk is not None and token_chunk < sequence.total:
        share = token_chunk / sequence.total
        projecting = stream + 3 * half + share * (branch + 3 * half + 2 * stream)
        return max(projecting, stream + 3 * half + attending, stream + share * (branch + inner + product)) + kept
    # In half precision off the CPU, rotated queries and keys are float32 before they are half precision again; in float32
    # attention's result is projected while queries, keys and values are still there.
    beside = 2 * half if itemsize == _FLOAT else attending if on_cpu else 2 * stream
    anew = 0.0 if direct else stream * (2 if itemsize == _FLOAT and shape.has_context else 1)
    return max(stream + branch + 3 * half + beside, stream + branch + inner + product) + anew + kept


def _kept_by_pass(shape: TransformerShape, sequence: SequenceShape, itemsize: int) -> float:
    """Tokens of pictures and video before the blocks, rotary factors, sums of attention, and the prompt."""
    tokens = sequence.total * shape.dim * itemsize
    rotary = sequence.total * shape.attention_head_dim * _FLOAT
    sums = sequence.total * shape.num_attention_heads * _FLOAT
    latents = sequence.video * math.prod(shape.patch_size) * shape.in_channels * itemsize
    context = context_tokens(shape) * shape.dim * itemsize
    return tokens + rotary + sums + latents + 3 * context


def memory_bytes(shape: TransformerShape, sequence: SequenceShape, itemsize: int, passes: int) -> float:
    """What a segment's passes remember (`scail2.models.memory`): pictures' tokens, a guided step's first attention, prompts."""
    pictures = (sequence.references + sequence.driving) * shape.dim * itemsize
    shared = sequence.total * shape.dim * _FLOAT if passes > 1 else 0
    context = passes * context_tokens(shape) * shape.dim * itemsize
    if keeps_context(shape, sequence):
        context *= 1 + 2 * shape.num_layers
    return pictures + shared + context


def step_cache_bytes(shape: TransformerShape, sequence: SequenceShape, cache: StepCache, passes: int) -> float:
    """What a step cache keeps between steps, for each of a step's passes, in float32 as the residual stream is.

    Of the first block its result and what it and the others changed; by magnitudes the first block's input and what all
    changed; of TaylorSeer every attention's result and its change.
    """
    stream = sequence.total * shape.dim * _FLOAT
    if cache is StepCache.FIRST_BLOCK:
        return 3.0 * passes * stream
    if cache is StepCache.MAG:
        return 2.0 * passes * stream
    if cache is StepCache.TAYLORSEER:
        return 2.0 * (2 if shape.has_context else 1) * shape.num_layers * passes * stream
    return 0.0


# ---- encoders -----------------------------------------------------------------------------------------------------


def text_peak(shape: TextEncoderShape, itemsize: int, tokens: int = 512) -> float:
    """One prompt through umT5: scores, their bias and softmax, float32."""
    return 4 * shape.num_heads * tokens**2 * _FLOAT + 6 * tokens * shape.d_ff * itemsize


def image_peak(shape: ImageEncoderShape, itemsize: int) -> float:
    """One picture through CLIP, every layer's hidden states kept."""
    tokens = (shape.image_size // shape.patch_size) ** 2 + 1
    kept = (shape.num_hidden_layers + 2) * tokens * shape.hidden_size
    return (kept + 4 * tokens * shape.intermediate_size) * itemsize
