"""Linear layers that keep their matrix in 8 bits as a file has it, and bring it into the computed type for each use."""

from __future__ import annotations

import torch
from torch import nn

from scail2.models.direct_linear import DirectLinear, linear


class ScaledLinear(DirectLinear):
    """A linear layer whose matrix is float8 or int8 numbers times a scale, one for all or one for each row.

    The product is rounded to the computed type just as it is when a file is loaded into full weights, so results are the
    same bit for bit.

    Args:
        weight: (out, in), float8 or int8.
        scale: float32 of one number, or (out, 1).
        bias: in the computed type, or None.
        compute_dtype: that type.
    """

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, compute_dtype: torch.dtype
    ) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("weight_scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.compute_dtype = compute_dtype

    def forward(self, hidden_states: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        weight = self.weight.float().mul_(self.weight_scale).to(self.compute_dtype)
        return linear(hidden_states, weight, self.bias, gelu=gelu)
