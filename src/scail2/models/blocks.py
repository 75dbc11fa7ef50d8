"""What this model puts inside diffusers' ``WanTransformerBlock``, whose class and parameter names stay as they are.

Caches, LoRA names, regional compilation and checkpoint converters are keyed by that class, so it is configured here by
its parts: an attention processor, an activation, and a stand-in where a model has no cross-attention.
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
    WanTransformerBlock,
    _get_added_kv_projections,
)
from torch import nn

from scail2.models.direct_linear import DirectLinear, may_overwrite, take_directly, tanh_gelu


def _branched(x: torch.Tensor) -> torch.Tensor:
    """A branch off the residual stream, in the type that autocast has linear layers work in, if it is on.

    Cast once instead of once for each of three projections, and also before quantised layers, which autocast knows nothing of.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def rotate_pairs(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply adjacent lanes, taken as complex numbers, by rotary factors of any modulus, in float32.

    Args:
        x: ``(B, L, heads, head_dim)``; overwritten where it is float32 and gradients are off.
        factors: float32 ``(1, L, 1, head_dim)``, cosine in even lanes and sine in odd lanes.

    Returns:
        float32, shape of ``x``.
    """
    if torch.compiler.is_compiling():
        # Code generators fuse this form and do not generate code for complex numbers.
        real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = factors.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)
    # One kernel over contiguous memory; strided halves took 13 times as long on a CPU at 1856 x 512.
    pairs, turns = (torch.view_as_complex(y.unflatten(-1, (-1, 2))) for y in (x.float(), factors))
    return torch.view_as_real(pairs.mul_(turns) if may_overwrite() else pairs * turns).flatten(-2)


@dataclass(frozen=True, slots=True)
class ProjectedContext:
    """A block's keys and values of one context, ``(B, tokens, heads, head_dim)`` each; ``image`` beside a text only."""

    text: tuple[torch.Tensor, torch.Tensor]
    image: tuple[torch.Tensor, torch.Tensor] | None


class SCAIL2AttnProcessor(WanAttnProcessor):
    """Wan's attention with a faster rotation, any text length, and norms that accept autocast inputs.

    Equal to ``WanAttnProcessor`` up to rounding; that one may be set instead where there are 512 text tokens. Backends
    and context parallelism work through the inherited ``_attention_backend`` and ``_parallel_config``.

    Args:
        image_length: image tokens at the head of the context, which have their own keys and values.
    """

    def __init__(self, image_length: int = 257):
        super().__init__()
        self.image_length = image_length

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        rows: slice | None = None,
        context: ProjectedContext | None = None,
    ) -> torch.Tensor:
        """As Wan's; beside it, ``rows`` limits self-attention to those queries, and ``context`` is `project`'s result."""
        hidden_states = _branched(hidden_states)
        if context is None and encoder_hidden_states is not None:
            context = self.project(attn, encoder_hidden_states)
        if context is None:
            query, text = self.project_own(attn, hidden_states, rotary_emb, rows)
        else:
            query = attn.to_q(hidden_states)
            query, text = _laid_out(_heads(attn, _normalised(attn.norm_q, query)), query.dtype), context.text
        # Only self-attention is spread over ranks: the context has too few tokens and an odd count.
        parallel = self._parallel_config if context is None else None
        output = self.attend(query, text, attention_mask, parallel)
        if context is not None and context.image is not None:
            image = self.attend(query, context.image, None, None)
            output = output.add_(image) if may_overwrite() else output + image
        return attn.to_out[1](attn.to_out[0](output))

    def project(self, attn: WanAttention, encoder_hidden_states: torch.Tensor) -> ProjectedContext:
        """Keys and values of a context ``(B, tokens, dim)``, which hold for every pass with it."""
        image = None
        if attn.add_k_proj is not None:
            image_context = encoder_hidden_states[:, : self.image_length]
            encoder_hidden_states = encoder_hidden_states[:, self.image_length :]
            key, value = _get_added_kv_projections(attn, image_context)
            image = _own_context(attn, attn.norm_added_k, key, value)
        if attn.fused_projections:
            key, value = attn.to_kv(encoder_hidden_states).chunk(2, dim=-1)
        else:
            key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        return ProjectedContext(_own_context(attn, attn.norm_k, key, value), image)

    def project_own(
        self, attn: WanAttention, hidden_states: torch.Tensor, rotary_emb: tuple | None, rows: slice | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Self-attention's queries, of ``rows`` alone where given, and its keys and values."""
        rows = slice(None) if rows is None else rows
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
            query = query[:, rows]
        else:
            query = attn.to_q(hidden_states[:, rows])
            key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        query, key = _normalised(attn.norm_q, query), _normalised(attn.norm_k, key)
        query, key, value = (_heads(attn, x) for x in (query, key, value))
        if rotary_emb is not None:
            query, key = rotate_pairs(query, rotary_emb[0][:, rows]), rotate_pairs(key, rotary_emb[0])
        dtype = value.dtype  # one after the other: each float32 form is gone before the next is cast
        query = _laid_out(query, dtype)
        key = _laid_out(key, dtype)
        return query, (key, _laid_out(value, dtype))

    def attend(self, query, key_value, attention_mask, parallel_config) -> torch.Tensor:
        key, value = key_value
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=0.0,
            is_causal=False,
            backend=self._attention_backend,
            parallel_config=parallel_config,
        )
        return output.flatten(2, 3).type_as(query)


def _heads(attn: WanAttention, x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(2, (attn.heads, -1))


def _own_context(attn: WanAttention, norm: nn.RMSNorm, key: torch.Tensor, value: torch.Tensor):
    """Keys, normalised, and values of a context as attention takes them."""
    key, dtype = _normalised(norm, key), value.dtype
    return _laid_out(_heads(attn, key), dtype), _laid_out(_heads(attn, value), dtype)


def _laid_out(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``(B, L, heads, head_dim)`` in a type; half precision on a CPU with each head in one piece.

    Attention is an eighth faster then, bit for bit the same.
    """
    if x.device.type == "cpu" and dtype.itemsize == 2 and not torch.compiler.is_compiling():
        return x.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format).contiguous().transpose(1, 2)
    return x.to(dtype)


def _normalised(norm: nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
    """Normalise a projection's fresh output, in the norm's own dtype (norms are never quantised) or float32.

    Under autocast the projections return bfloat16 while the norm is float32, which has no kernel of its own. On a CPU
    the library composes the norm from six kernels; these three passes overwrite ``x``, or its float32 copy.
    """
    if may_overwrite() and x.device.type == "cpu" and x.dtype in _NORMALISED_HERE and type(norm) is nn.RMSNorm:
        x = x.float()
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        return x.mul_(mean_square.add_(norm.eps).rsqrt_()).mul_(norm.weight)
    return norm(x.to(norm.weight.dtype))


_NORMALISED_HERE = (torch.float32, torch.bfloat16, torch.float16)


class NoCrossAttention(nn.Module):
    """Stands where a block's cross-attention would be in a model without text and image: adds nothing."""

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return hidden_states.new_zeros(())


class TanhGELU(nn.Module):
    """``proj``, then GELU in its tanh form, in place without gradients: a feed-forward's first half, names unchanged."""

    def __init__(self, proj: nn.Linear):
        super().__init__()
        self.proj = proj

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = _branched(hidden_states)
        if isinstance(self.proj, DirectLinear):
            return self.proj(hidden_states, gelu=True)
        return tanh_gelu(self.proj(hidden_states))


def build_block(config) -> WanTransformerBlock:
    """One block from the transformer's config; without text and image it has no cross-attention."""
    dim = config.num_attention_heads * config.attention_head_dim
    has_context = config.text_dim is not None or config.image_dim is not None
    # Image tokens have their own keys and values beside text; alone they are the one context.
    added_kv_dim = dim if config.image_dim is not None and config.text_dim is not None else None
    block = WanTransformerBlock(
        dim,
        config.ffn_dim,
        config.num_attention_heads,
        config.qk_norm,
        config.cross_attn_norm,
        config.eps,
        added_kv_dim,
    )
    block.ffn.net[0] = TanhGELU(block.ffn.net[0].proj)
    block.attn1.set_processor(SCAIL2AttnProcessor(config.image_length))
    if has_context:
        block.attn2.set_processor(SCAIL2AttnProcessor(config.image_length))
    else:
        block.attn2, block.norm2 = NoCrossAttention(), nn.Identity()
    take_directly(block)
    return block
