"""A wider and deeper transformer that begins as the trained small one: what was learnt is not learnt again.

Old weights fill one corner of every grown matrix. New rows (new units) are noisy copies of old ones, new columns (who
listens to them) are zero, and a new block ends in zeros; so at first nothing but the statistics of the norms tells the
grown network from the small one (after Net2Net, arXiv:1511.05641).
"""

import math

import torch
from torch import nn

from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.models.transformer import SCAIL2Transformer3DModel

# Matrices of a block that write to the residual stream.
_WRITERS = ("attn1.to_out.0", "ffn.net.2")
# Its rows are six modulation vectors one after the other; each of them grows.
_MODULATION = "condition_embedder.time_proj"
# Share of noise in the spread of a new row; the rest is a copy. Copies keep the statistics, noise makes them useful.
_NOVELTY = 0.6


@without_gradients
def grow(
    small: SCAIL2Transformer3DModel, *, heads: int, layers: int, ffn_dim: int, generator: torch.Generator
) -> SCAIL2Transformer3DModel:
    """The network of ``small`` with more heads, blocks and hidden units; every other setting stays.

    Args:
        small: a network without cross-attention (no text, no CLIP).
        heads: attention heads of the usual size, which makes the width; at least those of ``small``.
        layers: blocks; the new ones are spread evenly between the old ones.
        ffn_dim: hidden units of the feed-forward layers.
        generator: draws the new rows.

    Raises:
        InputError: a size is below that of ``small``, or ``small`` has cross-attention.
    """
    config = small.config
    if config.text_dim is not None or config.image_dim is not None:
        raise InputError("Only a transformer without text and CLIP can be grown; this one has cross-attention.")
    for name, new, old in (
        ("heads", heads, config.num_attention_heads),
        ("layers", layers, config.num_layers),
        ("ffn_dim", ffn_dim, config.ffn_dim),
    ):
        if new < old:
            raise InputError(f"{name} is {new}, less than the {old} of the transformer to grow; give at least {old}.")
    sizes = {"num_attention_heads": heads, "num_layers": layers, "ffn_dim": ffn_dim}
    large = SCAIL2Transformer3DModel.from_config({**config, **sizes})
    known = dict(small.named_parameters())
    sources = _block_sources(config.num_layers, layers)
    for name, parameter in large.named_parameters():
        parameter.copy_(_grown(known[_old_name(name, sources)], parameter.shape, name, generator))
    for index, block in enumerate(large.blocks):
        if index > 0 and sources[index] == sources[index - 1]:
            for writer in _WRITERS:
                nn.init.zeros_(block.get_submodule(writer).weight)
                nn.init.zeros_(block.get_submodule(writer).bias)
    return large


def _block_sources(old: int, new: int) -> list[int]:
    """For each new block the old one it copies; repeats follow their original."""
    return [index * old // new for index in range(new)]


def _old_name(name: str, sources: list[int]) -> str:
    parts = name.split(".")
    if parts[0] == "blocks":
        parts[1] = str(sources[int(parts[1])])
    return ".".join(parts)


def _grown(old: torch.Tensor, shape: torch.Size, name: str, generator: torch.Generator) -> torch.Tensor:
    """``old`` in the first corner of a tensor of ``shape``."""
    if name.startswith(_MODULATION):
        rows = (6, shape[0] // 6, *shape[1:])
        return _grown_parts(old.unflatten(0, (6, -1)), rows, generator).flatten(0, 1)
    return _grown_parts(old[None], (1, *shape), generator)[0]


def _grown_parts(old: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Matrices ``(parts, rows, columns, ...)`` or vectors ``(parts, ..., channels)`` grown, each part for itself."""
    is_vector = len(old.shape) == 2 or old.shape[1] == 1
    if is_vector:
        # Biases, norms, modulation tables: a new channel does what the one it is copied from does.
        grown = old.float()[..., torch.arange(shape[-1]) % old.shape[-1]].clone()
    else:
        grown = torch.zeros(shape)
        copies = old.float()[:, torch.arange(old.shape[1], shape[1]) % old.shape[1]]
        noise = torch.randn(copies.shape, generator=generator)
        grown[:, old.shape[1] :, : old.shape[2]] = (
            math.sqrt(1 - _NOVELTY**2) * copies + _NOVELTY * _spread(copies) * noise
        )
    grown[tuple(slice(0, size) for size in old.shape)] = old
    return grown


def _spread(values: torch.Tensor) -> float:
    return float(values.std()) if values.numel() > 1 else 0.0
