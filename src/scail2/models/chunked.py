"""Blocks that take their tokens a few at a time: the same arithmetic in less memory.

All of a block but attention itself works token by token. Done for a chunk of tokens at once, its float32 intermediates and
the wide middle of the feed-forward are as small as the chunk; queries, keys and values are kept for all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from scail2.models.direct import add_gated, attend_context, modulation_of, within_branch


def take_tokens_in_chunks(blocks: Sequence[WanTransformerBlock], size: int, keeps_inputs: Callable[[], bool]) -> None:
    """Has each block work on ``size`` tokens at once, whoever calls it: offloading hooks and compilers see one block.

    Args:
        keeps_inputs: whether somebody looks at a block's input after its call (a step cache does); where nobody does, the
            residual stream is overwritten.
    """
    for block in blocks:
        block.forward = partial(_forward, block, size, keeps_inputs)


def _forward(
    block: WanTransformerBlock,
    size: int,
    keeps_inputs: Callable[[], bool],
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None,
    temb: torch.Tensor,
    rotary_emb: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    if torch.is_grad_enabled() or keeps_inputs():
        hidden_states = hidden_states.clone()
    chunks = [slice(start, start + size) for start in range(0, hidden_states.shape[1], size)]
    attention, processor = block.attn1, block.attn1.processor
    gate = modulation_of(block, temb)[2]
    whole: list[torch.Tensor] = []
    for rows in chunks:
        branch = within_branch(block, hidden_states[:, rows], temb)
        query, key_value = processor.project_own(attention, branch, tuple(each[:, rows] for each in rotary_emb), None)
        parts = (query, *key_value)
        if not whole:
            length = hidden_states.shape[1]
            whole = [each.new_empty(each.shape[0], length, *each.shape[2:]) for each in parts]
        for all_tokens, part in zip(whole, parts, strict=True):
            all_tokens[:, rows] = part
    query, *key_value = whole
    del whole, parts, branch
    output = processor.attend(query, key_value, None, processor._parallel_config)
    del query, key_value
    for rows in chunks:
        add_gated(hidden_states[:, rows], attention.to_out[1](attention.to_out[0](output[:, rows])), gate)
    del output
    context = (
        None if encoder_hidden_states is None else block.attn2.processor.project(block.attn2, encoder_hidden_states)
    )
    for rows in chunks:
        attend_context(block, hidden_states[:, rows], temb, context)
    return hidden_states
