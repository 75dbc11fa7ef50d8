"""What of the forward pass is kept for the backward pass, and what is computed again: memory against time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_ATEN = torch.ops.aten
# Attention's cost grows with the square of the tokens, its result only with the tokens.
_KEPT: frozenset[Callable[..., Any]] = frozenset(
    getattr(_ATEN, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    )
    if hasattr(_ATEN, name)
)


def checkpoint_blocks(transformer: nn.Module, *, keep_attention: bool) -> None:
    """Has a transformer keep the blocks' inputs alone, and attention's results if asked, and compute the rest of them again."""
    if keep_attention:
        transformer.enable_gradient_checkpointing(_all_but_attention)
    else:
        transformer.enable_gradient_checkpointing()


def _all_but_attention(block: nn.Module, *inputs: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(block.__call__, *inputs, use_reentrant=False, context_fn=contexts)


def _policy(_context: Any, operation: Callable[..., Any], *_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
