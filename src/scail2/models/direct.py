"""The way through the network when nothing listens: overwriting, trimming and remembering what blocks cannot by themselves.

Blocks are called as they are wherever a hook, a compiler, a gradient or several devices have to do with them. Elsewhere
their parts are called one by one, with the same arithmetic: into the residual stream instead of a new one, in the last
block for the noisy video's tokens only, and with keys and values of the context from a `SegmentMemory`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from torch import nn

from scail2.models.blocks import ProjectedContext, SCAIL2AttnProcessor
from scail2.models.memory import SegmentMemory

# Keys and values of a context are kept while the sequence has at most so many times its tokens. Beyond that they are
# below 1 % of a pass; for the 14B at 512 x 896 x 81, 0.1 %, and would take 0.6 GB.
WORTH_KEEPING = 16


@dataclass(frozen=True, eq=False, slots=True)
class PictureTokens:
    """Tokens of the pictures that a segment keeps, ``(B, tokens, dim)``, and the embedding of an empty mask."""

    references: torch.Tensor
    driving: torch.Tensor
    no_mask: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Context:
    """A prompt's tokens ``(B, tokens, dim)``, None without text and image, and what blocks have made of them so far."""

    tokens: torch.Tensor | None
    kept: dict[int, ProjectedContext] = field(default_factory=dict)

    def projected(self, index: int, block: WanTransformerBlock, *, keep: bool) -> ProjectedContext | None:
        """Keys and values of block number ``index``."""
        if self.tokens is None or index in self.kept:
            return self.kept.get(index)
        found = block.attn2.processor.project(block.attn2, self.tokens)
        if keep:
            self.kept[index] = found
        return found


@dataclass(frozen=True, eq=False, slots=True)
class BlockInputs:
    """What all blocks get beside the residual stream: see `WanTransformerBlock.forward`."""

    context: Context
    modulation: torch.Tensor
    rotary_emb: tuple[torch.Tensor, torch.Tensor]


def is_unwatched(module: nn.Module) -> bool:
    """Whether nothing would miss it if a module's parts were called in its place: no hook, wrapper or compiled form."""
    return not torch.nn.modules.module._has_any_global_hook() and not any(
        part._forward_hooks or part._forward_pre_hooks or part._compiled_call_impl or _is_wrapped(part)
        for part in module.modules()
    )


def _is_wrapped(module: nn.Module) -> bool:
    """Hooks of diffusers and accelerate set a ``forward`` on the object; taken off, they leave its class's own there."""
    forward = vars(module).get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


def is_plain(block: nn.Module) -> bool:
    """Whether a block is of the class and with the attention that `build_block` made, whatever weights are in it."""
    processors = [part.processor for part in block.modules() if isinstance(part, WanAttention)]
    return type(block) is WanTransformerBlock and all(
        type(found) is SCAIL2AttnProcessor and found._parallel_config is None for found in processors
    )


def through_blocks(
    blocks: Sequence[WanTransformerBlock],
    hidden_states: torch.Tensor,
    inputs: BlockInputs,
    rows: slice,
    memory: SegmentMemory | None,
    start: tuple,
) -> torch.Tensor:
    """The residual stream behind the last block, float32 ``(B, rows, dim)``.

    Args:
        hidden_states: float32 ``(B, tokens, dim)``, overwritten.
        rows: the tokens whose prediction is wanted: the last block computes no others.
        memory: the segment's, if it has one.
        start: all that ``hidden_states``, modulation and positions were made from, to know them by.
    """
    tokens = inputs.context.tokens
    keep = memory is not None and tokens is not None and hidden_states.shape[1] <= WORTH_KEEPING * tokens.shape[1]
    wanted = [None] * (len(blocks) - 1) + [rows]
    if memory is not None and memory.shares_steps:
        stream = memory.recall(
            "start", start, lambda: _attend_within(blocks[0], hidden_states, inputs, wanted[0])
        ).clone()
    else:
        stream = _attend_within(blocks[0], hidden_states, inputs, wanted[0])
    for index, block in enumerate(blocks):
        if index > 0:
            stream = _attend_within(block, stream, inputs, wanted[index])
        context = inputs.context.projected(index, block, keep=keep)
        stream = attend_context(block, stream, inputs.modulation, context)
    return stream


def _attend_within(
    block: WanTransformerBlock, hidden_states: torch.Tensor, inputs: BlockInputs, rows: slice | None
) -> torch.Tensor:
    """Self-attention: a block's first third."""
    gate = modulation_of(block, inputs.modulation)[2]
    seen = within_branch(block, hidden_states, inputs.modulation)
    branch = block.attn1(seen, None, None, inputs.rotary_emb, rows=rows)
    if rows is not None:
        hidden_states, seen = hidden_states[:, rows], seen[:, rows]
    return add_gated(hidden_states, branch, gate, seen)


def within_branch(block: WanTransformerBlock, hidden_states: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
    """What a block's self-attention sees of its tokens: normalised, scaled and shifted."""
    shift, scale, _ = modulation_of(block, modulation)[:3]
    return block.norm1(hidden_states).mul_(1 + scale).add_(shift)


def attend_context(
    block: WanTransformerBlock, hidden_states: torch.Tensor, modulation: torch.Tensor, context: ProjectedContext | None
) -> torch.Tensor:
    """Cross-attention and feed-forward: the rest of a block. ``hidden_states`` is overwritten."""
    shift, scale, gate = modulation_of(block, modulation)[3:]
    if context is not None:
        hidden_states.add_(block.attn2(block.norm2(hidden_states), context=context))
    seen = block.norm3(hidden_states).mul_(1 + scale).add_(shift)
    return add_gated(hidden_states, block.ffn(seen), gate, seen)


def modulation_of(block: WanTransformerBlock, modulation: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Shift, scale and gate of a block's self-attention, then those of its feed-forward, ``(B, 1, dim)`` each."""
    return (block.scale_shift_table + modulation).chunk(6, dim=1)


def add_gated(
    hidden_states: torch.Tensor, branch: torch.Tensor, gate: torch.Tensor, spare: torch.Tensor | None = None
) -> torch.Tensor:
    """Adds a gated branch to the residual stream, which is overwritten; so is the branch.

    Args:
        spare: of the stream's shape and type, no longer needed: a half-precision branch is gated into it.
    """
    if branch.dtype == gate.dtype:
        return hidden_states.add_(branch.mul_(gate))
    return hidden_states.add_(branch * gate if spare is None else spare.copy_(branch).mul_(gate))
