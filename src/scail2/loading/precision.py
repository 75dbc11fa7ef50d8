"""The number format a model computes in where nobody says."""

from __future__ import annotations

from pathlib import Path

from scail2.devices import Precision, cpu_has_native_bf16


def default_precision(model: str | Path | None, device: str) -> Precision | None:
    """What a model computes in on a kind of device ("cpu", "cuda", …); None keeps each of its networks as it is stored.

    The embedded model (None) computes in bfloat16 on CPUs that multiply it natively, in float32 on others, and on GPUs in
    float16, as it is stored.
    """
    if model is not None:
        return None
    if device != "cpu":
        return Precision.FLOAT16
    return Precision.BFLOAT16 if cpu_has_native_bf16() else Precision.FLOAT32
