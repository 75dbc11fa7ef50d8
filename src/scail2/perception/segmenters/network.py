"""The embedded segmentation network: a small U-Net that says, for every pixel, whether a character is there and where that
character's body centre is, and, for the whole picture, whether it looks like anything the network has learnt.

Shapes: pictures float (B, 3, H, W) in [-1, 1], H and W multiples of 16; features at strides 1, 2, 4, 8, 16.
"""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scail2.errors import InputError
from scail2.files.documents import Between, parse_json
from scail2.files.staging import atomic_file

STRIDE = 16
WEIGHTS_NAME = "segmenter.safetensors"


# Channels of a level; far above any that this network was trained with.
_Width = Annotated[int, Between(1, 4096)]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Widths of the five levels (stride 1 to 16) and the short side, in pixels, that the network was trained at."""

    widths: tuple[_Width, _Width, _Width, _Width, _Width] = (8, 16, 32, 64, 96)
    short_side: Annotated[int, Between(16, 8192)] = 128


@dataclass(frozen=True)
class Segmentation:
    """Network outputs for B pictures.

    Attributes:
        foreground: logits (B, H, W): a character is here.
        centre: (B, 2, H, W): x, y offset from each pixel to its character's body centre, in short sides.
        familiarity: logits (B,): the picture belongs to the learnt world.
        signature: (B, F) texture and content statistics, whose distance from the learnt ones is judged by `Familiarity`.
    """

    foreground: Tensor
    centre: Tensor
    familiarity: Tensor
    signature: Tensor


def _convolution(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int, *, dilation: int = 1):
        super().__init__()
        self.first = _convolution(width, width, dilation=dilation)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class SegmentationNetwork(nn.Module):
    """See the module's text. About 0.8 million parameters with the default widths."""

    def __init__(self, config: NetworkConfig | None = None):
        super().__init__()
        self.config = config or NetworkConfig()
        w0, w1, w2, w3, w4 = self.config.widths
        self.stem = _convolution(3, w0)
        self.down1 = _convolution(w0, w1, stride=2)
        self.down2 = nn.Sequential(_convolution(w1, w2, stride=2), _Residual(w2))
        self.down3 = nn.Sequential(_convolution(w2, w3, stride=2), _Residual(w3), _Residual(w3))
        self.down4 = nn.Sequential(_convolution(w3, w4, stride=2), _Residual(w4, dilation=2), _Residual(w4, dilation=4))
        self.up3 = nn.Sequential(_convolution(w4 + w3, w3), _Residual(w3))
        self.up2 = _convolution(w3 + w2, w2)
        self.up1 = _convolution(w2 + w1, w1)
        self.up0 = _convolution(w1 + w0, 16)
        self.foreground = nn.Conv2d(16, 1, 1)
        self.centre = nn.Conv2d(w2, 2, 1)
        self.familiarity = nn.Sequential(nn.Linear(2 * w1 + 2 * w2 + w4, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(self, pictures: Tensor) -> Segmentation:
        """Segments pictures float (B, 3, H, W) in [-1, 1], H and W multiples of 16."""
        x0 = self.stem(pictures)
        x1 = self.down1(x0)
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        x4 = self.down4(x3)
        y3 = self.up3(_joined(x4, x3))
        y2 = self.up2(_joined(y3, x2))
        y1 = self.up1(_joined(y2, x1))
        y0 = self.up0(_joined(y1, x0))
        # Texture (means and deviations of the fine levels) tells photographs from flat shading; the coarse level, content.
        signature = torch.cat(
            [part for x in (x1, x2) for part in (x.mean(dim=(2, 3)), x.std(dim=(2, 3)))] + [x4.mean(dim=(2, 3))], dim=1
        )
        centre = F.interpolate(self.centre(y2), scale_factor=4, mode="bilinear", align_corners=False)
        return Segmentation(
            self.foreground(y0)[:, 0], centre, self.familiarity(signature)[:, 0], signature.detach().float()
        )


def _joined(coarse: Tensor, fine: Tensor) -> Tensor:
    return torch.cat([F.interpolate(coarse, size=fine.shape[2:], mode="nearest"), fine], dim=1)


@dataclass(frozen=True)
class Familiarity:
    """How far a picture's signature lies from those of the learnt world: a Gaussian fitted after training.

    Attributes:
        mean: (F,). whitening: (F, K), so that ``|(s - mean) @ whitening| ** 2 / K`` is 1 on average in the learnt world.
        limit: distance at which familiarity is one half, set on the validation split.
    """

    mean: Tensor
    whitening: Tensor
    limit: Tensor

    @classmethod
    def fit(cls, signatures: Tensor, held_out: Tensor, *, components: int = 48, margin: float = 2.0) -> "Familiarity":
        """Fits to signatures (N, F); the limit is `margin` times the 99.5th percentile over `held_out` (M, F)."""
        mean = signatures.mean(dim=0)
        centred = (signatures - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(signatures))
        kept = values.argsort(descending=True)[:components]
        whitening = (vectors[:, kept] / values[kept].clamp_min(1e-8).sqrt()).float()
        draft = cls(mean, whitening, torch.tensor(1.0))
        return cls(mean, whitening, draft.distance(held_out).quantile(0.995) * margin)

    def distance(self, signatures: Tensor) -> Tensor:
        """Mean squared whitened deviation (B,) of signatures (B, F); 1 is usual."""
        return ((signatures - self.mean) @ self.whitening).square().mean(dim=1)

    def probability(self, signatures: Tensor) -> Tensor:
        """(B,) in [0, 1]: 1 well inside the learnt world, one half at the limit, falling to 0 beyond it."""
        return 1 / (1 + (self.distance(signatures) / self.limit).clamp_max(1e4) ** 4)


def for_inference(network: SegmentationNetwork) -> SegmentationNetwork:
    """The same network, whose normalisations are part of its convolutions (equal to 1e-5) and whose pixels lie together."""
    made = deepcopy(network).eval()
    for part in list(made.modules()):
        if isinstance(part, nn.Sequential) and len(part) > 1 and isinstance(part[1], nn.BatchNorm2d):
            part[0], part[1] = fuse_conv_bn_eval(part[0], part[1]), nn.Identity()
    return made.to(memory_format=torch.channels_last)


def save_network(directory: Path, network: SegmentationNetwork, familiarity: Familiarity, facts: dict) -> Path:
    """Writes ``segmenter.safetensors`` (half precision) with the configuration and `facts` in its header."""
    tensors = {name: _halved(tensor) for name, tensor in network.state_dict().items() if "num_batches" not in name}
    tensors |= {
        f"familiarity_fit.{name}": getattr(familiarity, name).float().contiguous()
        for name in ("mean", "whitening", "limit")
    }
    path = Path(directory) / WEIGHTS_NAME
    header = {"config": json.dumps(asdict(network.config)), "facts": json.dumps(facts)}
    with atomic_file(path) as file:
        file.write(save(tensors, metadata=header))
    return path


def _halved(tensor: Tensor) -> Tensor:
    return tensor.detach().half().contiguous() if tensor.is_floating_point() else tensor


def read_facts(path: Path) -> tuple[NetworkConfig, dict]:
    """Configuration and training facts from the header of a weights file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            header = stored.metadata() or {}
        config = parse_json(header["config"], NetworkConfig, f"the configuration in {path}")
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"{path} holds no segmentation network of scail2.") from error
    return config, parse_json(header.get("facts", "{}"), dict[str, Any], f"the facts in {path}", nonfinite=True)


def load_network(path: Path) -> tuple[SegmentationNetwork, Familiarity]:
    """Reads what `save_network` wrote; the network is in evaluation mode and single precision."""
    config, _ = read_facts(path)
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    fit = {name: tensors.pop(f"familiarity_fit.{name}") for name in ("mean", "whitening", "limit")}
    network = SegmentationNetwork(config)
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if "num_batches" not in name]
    if missing or unexpected:
        raise InputError(f"{path} does not fit the segmentation network: {(missing + unexpected)[0]} is out of place.")
    return network.eval(), Familiarity(**fit)
