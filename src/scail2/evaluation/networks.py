"""Measures that need a network nobody ships with this package: LPIPS and FVD, where the user gives the files.

Both are TorchScript files: programs that are run, so take them only from people you trust. An LPIPS module takes two
pictures `(N, 3, H, W)` in [-1, 1] and returns N distances; a video feature network (I3D for the usual FVD) takes
`(N, 3, T, H, W)` in [-1, 1] and returns features `(N, D)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.files.storage import refuse_special

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class GivenNetworks:
    """The networks given; None leaves its measure out."""

    lpips: torch.jit.ScriptModule | None = None
    video_features: torch.jit.ScriptModule | None = None

    @classmethod
    def load(cls, lpips: Path | None = None, video_features: Path | None = None) -> "GivenNetworks | None":
        """Loads what is given; None when nothing is.

        Raises:
            InputError: a file that is missing or is not TorchScript.
        """
        if lpips is None and video_features is None:
            return None
        return cls(*(None if path is None else _load(path) for path in (lpips, video_features)))

    @without_gradients
    def per_clip(self, output: Array, truth: Array) -> dict[str, float]:
        """`lpips`: mean distance of frames (lower is better)."""
        if self.lpips is None:
            return {}
        return {"lpips": float(self.lpips(_pictures(output), _pictures(truth)).mean())}

    @without_gradients
    def per_set(self, pairs: Sequence[tuple[Array, Array]]) -> dict[str, float]:
        """`fvd`: Fréchet distance between features of all outputs and all truths; needs two clips at least."""
        if self.video_features is None or len(pairs) < 2:
            return {}
        features = [
            np.concatenate([self.video_features(_pictures(pair[side]).transpose(0, 1)[None]).numpy() for pair in pairs])
            for side in (0, 1)
        ]
        return {"fvd": frechet_distance(*features)}


def frechet_distance(features: Array, others: Array) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of two feature sets `(N, D)`, N ≥ 2."""
    mean, other_mean = features.mean(axis=0), others.mean(axis=0)
    first, second = np.atleast_2d(np.cov(features, rowvar=False)), np.atleast_2d(np.cov(others, rowvar=False))
    # tr (Σ₁Σ₂)^½ is the sum of the square roots of the product's eigenvalues, which are real and not negative.
    cross = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0)).sum()
    return float(((mean - other_mean) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross)


def _pictures(clip: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(clip)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _load(path: Path) -> torch.jit.ScriptModule:
    refuse_special(path)
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise InputError(f"{path} is not a TorchScript file: export the network with torch.jit.save") from error
