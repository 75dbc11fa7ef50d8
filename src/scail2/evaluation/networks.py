"""Measures that need a network nobody ships with this package: LPIPS and FVD, where the user gives the files.

LPIPS is given as its weights (the state dictionary of `lpips.LPIPS`, `.safetensors` or `.pth`) or as TorchScript that takes two
pictures `(N, 3, H, W)` in [-1, 1] and returns N distances. A video feature network is TorchScript that takes
`(N, 3, T, H, W)` in [-1, 1] and returns features `(N, D)`; the I3D file of the usual FVD, whose `forward` has switches for
rescaling, resizing and features, is given videos of 224x224. TorchScript files are programs that are run: take them only
from people you trust.
"""

import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from scail2.devices import without_gradients
from scail2.errors import InputError, is_out_of_memory
from scail2.evaluation.perceptual import LearnedDistance
from scail2.files.storage import refuse_special

Array = np.ndarray
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_I3D_SIDE = 224
_I3D_SWITCHES = ("rescale", "resize", "return_features")
_CHUNK = 8  # frames whose features are held at once


@dataclass(frozen=True, slots=True)
class GivenNetworks:
    """The networks given; None leaves its measure out."""

    lpips: "GivenDistance | None" = None
    video_features: "GivenFeatures | None" = None

    @classmethod
    def load(cls, lpips: Path | None = None, video_features: Path | None = None) -> "GivenNetworks | None":
        """Loads what is given; None when nothing is.

        Raises:
            InputError: a file that is missing, or is not what it should be.
        """
        if lpips is None and video_features is None:
            return None
        return cls(
            None if lpips is None else GivenDistance(lpips, _load_distance(lpips)),
            None if video_features is None else GivenFeatures(video_features, _load_script(video_features)),
        )

    @without_gradients
    def per_clip(self, output: Array, truth: Array) -> dict[str, float]:
        """`lpips`: mean distance of frames (lower is better).

        Raises:
            InputError: the network cannot work on these frames, or returns something else than N distances.
        """
        if self.lpips is None:
            return {}
        starts = range(0, len(output), _CHUNK)
        parts = [self.lpips(*(_pictures(clip[at : at + _CHUNK]) for clip in (output, truth))) for at in starts]
        return {"lpips": float(torch.cat(parts).mean())}

    @without_gradients
    def features(self, output: Array, truth: Array) -> tuple[Array, Array] | None:
        """What `per_set` needs of a clip: features `(1, D)` of output and truth; None without such a network.

        Raises:
            InputError: the network cannot work on this clip, or returns something else than `(1, D)`, D as before.
        """
        if self.video_features is None:
            return None
        return self.video_features(_pictures(output)), self.video_features(_pictures(truth))

    def per_set(self, features: Sequence[tuple[Array, Array]]) -> dict[str, float]:
        """`fvd`: Fréchet distance between features of all outputs and all truths; needs two clips at least."""
        if self.video_features is None or len(features) < 2:
            return {}
        return {"fvd": frechet_distance(*(np.concatenate([each[side] for each in features]) for side in (0, 1)))}


@dataclass(frozen=True, slots=True)
class GivenDistance:
    """A network of LPIPS from ``path``, whose results are looked at."""

    path: Path
    network: Distance

    def __call__(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """N distances of pictures `(N, 3, H, W)` in [-1, 1]."""
        with _working(self.path, one):
            found = self.network(one, other)
        if not isinstance(found, torch.Tensor) or found.numel() != len(one):
            raise InputError(
                f"{self.path} returns {_told(found)} for two batches of {len(one)} pictures; {len(one)} distances are expected, "
                "one for each pair."
            )
        return _finite(self.path, found).flatten()


@dataclass(slots=True)
class GivenFeatures:
    """A network of video features from ``path``, whose results are looked at; ``width`` is how many the first clip had."""

    path: Path
    network: torch.jit.ScriptModule
    width: int | None = None

    def __call__(self, pictures: torch.Tensor) -> Array:
        """Features `(1, D)`, float32, of a video `(T, 3, H, W)` in [-1, 1]."""
        with _working(self.path, pictures):
            found = self._features(pictures)
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or found.shape[0] != 1 or not found.shape[1]:
            raise InputError(
                f"{self.path} returns {_told(found)} for one video of {len(pictures)} frames; features of shape (1, D) are "
                "expected: export the network with its features pooled over time and space."
            )
        self.width = self.width or found.shape[1]
        if found.shape[1] != self.width:
            raise InputError(
                f"{self.path} returns {found.shape[1]} features for a video of {len(pictures)} frames and {self.width} for one "
                "before; FVD needs as many for every clip: export the network with its features pooled over time and space."
            )
        return _finite(self.path, found).numpy()

    def _features(self, pictures: torch.Tensor) -> torch.Tensor:
        names = [each.name for each in self.network.forward.schema.arguments]
        if not set(_I3D_SWITCHES) <= set(names):
            return self.network(pictures.transpose(0, 1)[None])
        resized = F.interpolate(pictures, size=(_I3D_SIDE, _I3D_SIDE), mode="bilinear", align_corners=False)
        return self.network(resized.transpose(0, 1)[None], rescale=False, resize=False, return_features=True)


@contextmanager
def _working(path: Path, pictures: torch.Tensor) -> Iterator[None]:
    """Turns what a network says of pictures it cannot work on into one `InputError`; TorchScript ends with the reason."""
    try:
        yield
    except (RuntimeError, torch.jit.Error) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
        raise InputError(
            f"{path} cannot work on {len(pictures)} pictures of {pictures.shape[-1]}x{pictures.shape[-2]}: {reason}."
        ) from error


def _finite(path: Path, found: torch.Tensor) -> torch.Tensor:
    if not found.isfinite().all():
        raise InputError(f"{path} returns numbers that are none (NaN or infinite): nothing can be measured with it.")
    return found.float()


def _told(found: object) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"


def frechet_distance(features: Array, others: Array) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of two feature sets `(N, D)`, N ≥ 2."""
    mean, other_mean = features.mean(axis=0), others.mean(axis=0)
    first, second = np.atleast_2d(np.cov(features, rowvar=False)), np.atleast_2d(np.cov(others, rowvar=False))
    # tr (Σ₁Σ₂)^½ is the sum of the square roots of the product's eigenvalues, which are real and not negative.
    cross = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0)).sum()
    return float(((mean - other_mean) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross)


def _pictures(clip: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(clip)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _load_distance(path: Path) -> Distance:
    refuse_special(path)
    if path.suffix == ".safetensors":
        try:
            return LearnedDistance(load_file(path), str(path))
        except (SafetensorError, FileNotFoundError) as error:
            raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    if path.is_file() and not _is_script(path):
        try:
            weights = torch.load(path, weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path} is neither TorchScript (torch.jit.save) nor the weights of LPIPS (a state dictionary)."
            ) from None
        if not isinstance(weights, dict) or not all(isinstance(each, torch.Tensor) for each in weights.values()):
            raise InputError(f"{path} holds no weights of LPIPS: a state dictionary of lpips.LPIPS is expected.")
        return LearnedDistance(weights, str(path))
    return _load_script(path)


def _is_script(path: Path) -> bool:
    """Whether a file is TorchScript: such an archive holds code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _load_script(path: Path) -> torch.jit.ScriptModule:
    refuse_special(path)
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise InputError(f"{path} is not a TorchScript file: export the network with torch.jit.save") from error
