"""Measures how large what a transformer's blocks add to their input is at every noise level, for `StepCache.MAG`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from scail2.request.speed import Magnitudes

# Enough to tell a hundredth of the change from one noise level to another.
_DIGITS = 4


def measure_magnitudes(pipe: Any, make: Callable[[], Any]) -> Magnitudes:
    """From the passes that are made while ``make`` samples one segment with ``pipe``, the first one of every step.

    Args:
        pipe: a `SCAIL2Pipeline`.
        make: calls it, without a step cache; the more steps, the finer the curve.
    """
    found: dict[float, float] = {}
    with _residuals(pipe.transformer, lambda log_norm: found.setdefault(float(pipe._current_timestep), log_norm)):
        make()
    levels = sorted(found, reverse=True)
    return Magnitudes(tuple(round(each, 2) for each in levels), tuple(round(found[each], _DIGITS) for each in levels))


@contextmanager
def _residuals(transformer: Any, told: Callable[[float], Any]) -> Iterator[None]:
    """Tells of every pass the mean logarithm of the norms of its tokens' residuals: what all blocks together added."""
    began: list[torch.Tensor] = []

    def begin(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        began[:] = [inputs[0]]

    def end(_: Any, __: Any, output: torch.Tensor) -> None:
        told((output - began.pop()).float().norm(dim=-1).log().mean().item())

    hooks = [transformer.blocks[0].register_forward_pre_hook(begin), transformer.blocks[-1].register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
