"""How wrong a picture is, for training: squared error and what it blurs away (absolute, gradient, structure, detail)."""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_SIMILARITY_WINDOW = 7
# Windows overlap by more than half: every second one along both axes says nearly as much, at a third of the cost.
_STRIDE = 2
# Pixels; eyes are three wide in the puppets' heads, and their place is seldom known better than this.
_REACH = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureLoss:
    """Weights of the terms. Pixels are in [-1, 1].

    Attributes:
        squared: squared error, the figure that PSNR is made of.
        absolute: absolute error; a decision costs less than it does squared, so edges get harder.
        gradient: absolute error of the differences of neighbouring pixels.
        similarity: 1 − SSIM.
        contrast: how far the strength of the edges around a pixel is from the truth's, wherever in the window they lie;
            squared error alone blurs an edge whose place is uncertain, this term has it drawn at the likeliest one.
        displaced: least squared error around a pixel when the truth may be moved a little (`least_displaced`): an eye that is
            drawn beside its place costs nothing, one that is blurred over all its places does.
        character: how much a character's pixel counts beside another's 1.
        detail: the same for what people look at first, heads and hands.
    """

    squared: float = 1.0
    absolute: float = 0.05
    gradient: float = 0.03
    similarity: float = 0.02
    contrast: float = 0.0
    displaced: float = 0.0
    character: float = 1.5
    detail: float = 1.5

    def weight(self, region: Tensor, details: Tensor) -> Tensor:
        """How much each pixel counts, ``(B, 1, T, H, W)`` with mean 1, for two masks, bool ``(B, T, H, W)``."""
        weight = 1 + (self.character - 1) * region.float()
        weight = torch.where(details, self.detail, weight)[:, None]
        return weight / weight.mean()

    def __call__(self, output: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of frames ``(B, 3, T, H, W)`` under a `weight`.

        Returns:
            A scalar, and its terms, without their factors, for the log.
        """
        difference = output - truth
        terms = {
            "squared": (weight * difference.square()).mean(),
            "absolute": (weight * difference.abs()).mean(),
            "gradient": sum(
                (weight.narrow(d, 1, weight.shape[d] - 1) * difference.diff(dim=d).abs()).mean() for d in (3, 4)
            ),
            "dissimilarity": (weight[..., ::_STRIDE, ::_STRIDE] * dissimilarity(output, truth)).mean(),
        }
        factors = [self.squared, self.absolute, self.gradient, self.similarity]
        for factor, name, term in (
            (self.contrast, "faintness", faintness),
            (self.displaced, "displaced", least_displaced),
        ):
            if factor:
                terms[name] = (weight[..., ::_STRIDE, ::_STRIDE] * term(output, truth)).mean()
                factors.append(factor)
        total = sum(factor * term for factor, term in zip(factors, terms.values(), strict=True))
        return total, {name: term.detach() for name, term in terms.items()}


def dissimilarity(output: Tensor, truth: Tensor) -> Tensor:
    """1 − SSIM around every second pixel of every second row, ``(B, 1, T, H/2, W/2)``, mean of the channels.

    Windows are flat, 7×7; clips are in [-1, 1].
    """
    x, y = (clip.transpose(1, 2).flatten(0, 1) + 1 for clip in (output, truth))  # luminance is counted from black
    mean_x, mean_y, square_x, square_y, product = (_windowed(v) for v in (x, y, x * x, y * y, x * y))
    variance = (square_x - mean_x**2) + (square_y - mean_y**2)
    covariance = product - mean_x * mean_y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    # |mean|² and variance are at least 0 but for rounding.
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance.clamp(min=0) + c2))
    return (1 - similarity.mean(dim=1, keepdim=True)).unflatten(0, (len(output), -1)).transpose(1, 2)


def faintness(output: Tensor, truth: Tensor) -> Tensor:
    """How far the strength of edges is from the truth's, 0 … 1, around every second pixel, ``(B, 1, T, H/2, W/2)``.

    The strength is the root of the windowed mean of squared gradients, all channels together; two
    strengths are compared like SSIM's contrast term, so that twice and half as strong count alike.
    """
    mine, true = (_strength(clip.transpose(1, 2).flatten(0, 1)) for clip in (output, truth))
    c2 = (0.03 * 2) ** 2
    alike = (2 * mine * true + c2) / (mine.square() + true.square() + c2)
    return (1 - alike).unflatten(0, (len(output), -1)).transpose(1, 2)


def least_displaced(output: Tensor, truth: Tensor) -> Tensor:
    """Squared error around every second pixel, the least over displacements of the truth, ``(B, 1, T, H/2, W/2)``.

    Each window takes the one of the 25 displacements by up to two pixels along both axes that suits it best, so neither a
    blurred drawing nor a hatched one is as good as the true one beside its place.
    """
    mine, true = (clip.transpose(1, 2).flatten(0, 1) for clip in (output, truth))
    height, width = true.shape[-2:]
    around = F.pad(true, (_REACH,) * 4, mode="replicate")
    places = itertools.product(range(2 * _REACH + 1), repeat=2)
    errors = [
        _windowed((mine - around[..., y : y + height, x : x + width]).square().mean(dim=1, keepdim=True))
        for y, x in places
    ]
    return torch.stack(errors).amin(dim=0).unflatten(0, (len(output), -1)).transpose(1, 2)


def _strength(frames: Tensor) -> Tensor:
    """Sobel's gradients, which do not see alternating pixels: with plain differences dots pass for edges."""
    across = frames.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([across, across.T])[:, None].repeat(frames.shape[1], 1, 1, 1)
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    squares = F.conv2d(padded, kernels, groups=frames.shape[1]).square()
    return (_windowed(squares.mean(dim=1, keepdim=True)) + 1e-6).sqrt()


def _windowed(values: Tensor) -> Tensor:
    half = _SIMILARITY_WINDOW // 2
    padded = F.pad(values, (half, half, half, half), mode="replicate")
    across = F.avg_pool2d(padded, (1, _SIMILARITY_WINDOW), stride=(1, _STRIDE))
    return F.avg_pool2d(across, (_SIMILARITY_WINDOW, 1), stride=(_STRIDE, 1))
