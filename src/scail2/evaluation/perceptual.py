"""LPIPS from its published weights: the distance of two pictures' features, weighed channel by channel.

Zhang et al. 2018. The network is built as large as the weights say, over AlexNet's or VGG16's convolutions.
"""

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from scail2.errors import InputError

_CONVOLUTION = re.compile(r"net\.slice([1-5])\.(\d+)\.(weight|bias)")
_LINEAR = re.compile(r"lin([0-4])\.model\.1\.weight")
# Where the networks pool, as numbers of their layers in torchvision; kernel and stride of the pooling.
_POOLING = {"alex": ({2, 5}, 3, 2), "vgg": ({4, 9, 16, 23}, 2, 2)}
_LARGEST_FIRST_KERNEL = 11  # AlexNet's first convolution, which alone has a stride


class LearnedDistance(nn.Module):
    """The distance of pictures ``(N, 3, H, W)`` in [-1, 1], N numbers.

    Args:
        weights: names and shapes as in ``lpips.LPIPS(net="alex").state_dict()``, or with ``net="vgg"``.

    Raises:
        InputError: they are none.
    """

    def __init__(self, weights: Mapping[str, Tensor], where: str) -> None:
        super().__init__()
        layers, linear = _sorted(weights)
        if len(linear) != len(layers) or not layers or "scaling_layer.shift" not in weights:
            raise InputError(f"{where} holds no weights of LPIPS: a state dictionary of lpips.LPIPS is expected.")
        first = layers[0][0][1]["weight"]
        self._is_alex = first.shape[-1] == _LARGEST_FIRST_KERNEL
        self._layers = [[number for number, _ in each] for each in layers]
        self.convolutions = nn.ParameterDict()
        for each in layers:
            for number, both in each:
                for name, value in both.items():
                    self.convolutions[f"{number}_{name}"] = nn.Parameter(value.float(), requires_grad=False)
        self.linear = nn.ParameterList([nn.Parameter(each.float(), requires_grad=False) for each in linear])
        for name in ("shift", "scale"):
            self.register_buffer(name, weights[f"scaling_layer.{name}"].float().reshape(1, 3, 1, 1))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """N distances, 0 for equal pictures."""
        total = one.new_zeros(len(one))
        pairs = zip(self._features(one), self._features(other), self.linear, strict=True)
        for first, second, weight in pairs:
            difference = (_unit(first) - _unit(second)).square()
            total = total + F.conv2d(difference, weight).mean(dim=(1, 2, 3))
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """After each of the five slices."""
        pools, kernel, stride = _POOLING["alex" if self._is_alex else "vgg"]
        values, found, before = (pictures - self.shift) / self.scale, [], -1
        for layers in self._layers:
            for number in layers:
                if any(before < pool < number for pool in pools):
                    values = F.max_pool2d(values, kernel, stride)
                weight = self.convolutions[f"{number}_weight"]
                side = weight.shape[-1]
                wide = side == _LARGEST_FIRST_KERNEL
                values = F.conv2d(
                    values,
                    weight,
                    self.convolutions[f"{number}_bias"],
                    stride=4 if wide else 1,
                    padding=2 if wide else side // 2,
                )
                values, before = values.relu(), number
            found.append(values)
        return found


_Layer = tuple[int, dict[str, Tensor]]


def _sorted(weights: Mapping[str, Tensor]) -> tuple[list[list[_Layer]], list[Tensor]]:
    """Convolutions of each slice by their number, and the linear weights of each."""
    slices: dict[int, dict[int, dict[str, Tensor]]] = {}
    linear: dict[int, Tensor] = {}
    for name, value in weights.items():
        if found := _CONVOLUTION.fullmatch(name):
            place, number, kind = int(found[1]), int(found[2]), found[3]
            slices.setdefault(place, {}).setdefault(number, {})[kind] = value
        elif found := _LINEAR.fullmatch(name):
            linear[int(found[1])] = value
    whole = all({"weight", "bias"} <= both.keys() for each in slices.values() for both in each.values())
    ordered = [sorted(slices[place].items()) for place in sorted(slices)] if whole else []
    return ordered, [linear[place] for place in sorted(linear)]


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
