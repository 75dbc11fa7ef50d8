"""A linear layer of GGUF blocks whose numbers are those of the same file loaded in full."""

from __future__ import annotations

import torch
from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, GGUFLinear, dequantize_functions

from scail2.models.direct_linear import DirectLinear, linear


class ExactGgufLinear(GGUFLinear, DirectLinear):
    """diffusers' layer, which unpacks in float16; this one does it in float32, as `scail2.load_transformer` does."""

    def forward(self, inputs: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """(..., in) to (..., out) in the computed type, after a GELU if asked for."""
        weight = unpack(self.weight.as_tensor(), self.weight.quant_type).to(self.compute_dtype)
        return linear(inputs, weight, self.bias, gelu=gelu)


def unpack(stored: torch.Tensor, block_type: int) -> torch.Tensor:
    """Blocks (rows, bytes of a row) uint8 to float32 (rows, columns)."""
    numbers, size = GGML_QUANT_SIZES[block_type]
    blocks = stored.view(torch.uint8).reshape(-1, size)
    return dequantize_functions[block_type](blocks, numbers, size, torch.float32).reshape(stored.shape[0], -1)
