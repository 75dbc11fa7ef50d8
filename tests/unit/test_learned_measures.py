"""LPIPS from weights of the real architecture, tiny and random, against a plain computation; I3D by its real signature."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scail2.errors import InputError
from scail2.evaluation.networks import GivenNetworks, frechet_distance
from scail2.evaluation.perceptual import LearnedDistance

# (slice, number in torchvision's list, kernel) of the convolutions; widths are ours.
ALEX = [(1, 0, 11), (2, 3, 5), (3, 6, 3), (4, 8, 3), (5, 10, 3)]
VGG = [(1, 0, 3), (1, 2, 3), (2, 5, 3), (2, 7, 3), (3, 10, 3), (3, 12, 3), (3, 14, 3),
       (4, 17, 3), (4, 19, 3), (4, 21, 3), (5, 24, 3), (5, 26, 3), (5, 28, 3)]  # fmt: skip


def weights(layers: list[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
    """A state dictionary as `lpips.LPIPS` writes it, 4 and more channels wide."""
    generator, found, before = torch.Generator().manual_seed(0), {}, 3
    for place, number, kernel in layers:
        width = 3 + place
        shape = (width, before, kernel, kernel)
        found[f"net.slice{place}.{number}.weight"] = torch.randn(shape, generator=generator) / (before * kernel)
        found[f"net.slice{place}.{number}.bias"] = torch.randn(width, generator=generator) / 4
        before = width
    for place in range(5):
        found[f"lin{place}.model.1.weight"] = torch.rand((1, 4 + place, 1, 1), generator=generator)
        found[f"lins.{place}.model.1.weight"] = found[f"lin{place}.model.1.weight"]
    found["scaling_layer.shift"] = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    found["scaling_layer.scale"] = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    return found


def plain(state: dict, layers: list, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The published computation over torchvision's own sequence of layers."""
    alex = layers is ALEX
    places = {number: (place, kernel) for place, number, kernel in layers}
    pools, pool = ({2, 5}, nn.MaxPool2d(3, 2)) if alex else ({4, 9, 16, 23}, nn.MaxPool2d(2, 2))
    sides, total = [], 0
    for x in (one, other):
        x = (x - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
        kept = {}
        for number in range(max(places) + 2):
            if number in pools:
                x = pool(x)
            elif number in places:
                place, kernel = places[number]
                stride, padding = (4, 2) if kernel == 11 else (1, kernel // 2)
                both = (state[f"net.slice{place}.{number}.{name}"] for name in ("weight", "bias"))
                x = nn.functional.conv2d(x, *both, stride=stride, padding=padding)
            else:
                x = torch.relu(x)
                kept[place] = x
        sides.append(kept)
    for place in range(1, 6):
        first, second = (kept[place] / (kept[place].norm(dim=1, keepdim=True) + 1e-10) for kept in sides)
        total = total + ((first - second) ** 2 * state[f"lin{place - 1}.model.1.weight"]).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize(("layers", "side"), [(ALEX, 95), (VGG, 48)], ids=["alex", "vgg"])
def test_the_distance_is_the_published_one(layers, side):
    state = weights(layers)
    pictures = torch.rand(2, 2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    distance = LearnedDistance(state, "here")
    found = distance(pictures[0], pictures[1])
    torch.testing.assert_close(found, plain(state, layers, pictures[0], pictures[1]), rtol=1e-4, atol=1e-6)
    assert found.min() > 0
    assert distance(pictures[0], pictures[0]).abs().max() == 0


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_given_as_a_file(tmp_path, suffix):
    state, path = {name: value.clone() for name, value in weights(ALEX).items()}, tmp_path / f"alex{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    networks = GivenNetworks.load(path)
    clips = np.random.default_rng(0).integers(0, 256, (2, 11, 64, 64, 3), np.uint8)  # more frames than are held at once
    pictures = torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    expected = plain(state, ALEX, pictures[0], pictures[1]).mean()
    assert networks.per_clip(*clips)["lpips"] == pytest.approx(float(expected), rel=1e-4)


def test_other_files_are_refused(tmp_path):
    state = weights(ALEX)
    for changed in ({}, {"a": torch.zeros(2)}, {n: v for n, v in state.items() if n != "net.slice3.6.bias"},
                    {n: v for n, v in state.items() if "lin4" not in n}):  # fmt: skip
        torch.save(changed, tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"holds no weights of LPIPS"):
            GivenNetworks.load(tmp_path / "x.pth")
    torch.save({"model": "names"}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"holds no weights of LPIPS"):
        GivenNetworks.load(tmp_path / "x.pth")


class I3D(nn.Module):
    """The switches of the I3D file that FVD is usually computed with; features that tell how it was called."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        means = x.mean(dim=[3, 4]).flatten(1)
        if rescale or resize or not return_features:
            means = means * 1000
        return torch.cat([means, torch.full((len(x), 1), float(x.shape[3]))], dim=1)


def test_the_usual_video_network_is_called_as_it_must_be(tmp_path):
    torch.jit.script(I3D()).save(tmp_path / "i3d.pt")
    networks = GivenNetworks.load(video_features=tmp_path / "i3d.pt")
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (4, 2, 5, 16, 24, 3), np.uint8)  # (clip, output or truth, …)
    features = [networks.features(*pair) for pair in videos]
    first = features[0][0]
    assert first.shape == (1, 16)
    assert first[0, -1] == 224
    values = videos[0, 0].astype(np.float64).transpose(3, 0, 1, 2) / 127.5 - 1
    assert np.allclose(first[0, :-1], values.mean(axis=(2, 3)).ravel(), atol=2e-2)
    sides = [np.concatenate([pair[side] for pair in features]) for side in (0, 1)]
    assert networks.per_set(features)["fvd"] == pytest.approx(frechet_distance(*sides))


class Features(nn.Module):
    """Video features of a shape that is told."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self.shape) + x.mean()


class PairOfFeatures(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean(dim=[2, 3, 4]), x


class FeaturesOfFrames(nn.Module):
    """As many as there are frames; fewer than three are refused in its own words."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] < 3:
            raise ValueError("three frames at least")
        return x.mean(dim=[1, 3, 4])


class Distances(nn.Module):
    def __init__(self, shape: list[int], value: float = 1.0) -> None:
        super().__init__()
        self.shape, self.value = shape, value

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.full(self.shape, self.value) + 0 * (one - other).mean()


def clip(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 16, 24, 3), np.uint8)


def given(tmp_path, module: nn.Module, kind: str) -> GivenNetworks:
    torch.jit.script(module).save(tmp_path / "net.pt")
    return GivenNetworks.load(**{kind: tmp_path / "net.pt"})


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (
            Features([7]),
            r"returns a tensor of shape \(7,\) for one video of 5 frames; features of shape \(1, D\) are expected",
        ),
        (Features([2, 7]), r"a tensor of shape \(2, 7\)"),
        (Features([1, 7, 1, 1, 1]), r"a tensor of shape \(1, 7, 1, 1, 1\)"),
        (Features([1, 0]), r"a tensor of shape \(1, 0\)"),
        (PairOfFeatures(), r"returns a tuple for one video"),
    ],
)
def test_video_features_of_another_shape_are_refused_at_the_first_clip(tmp_path, module, told):
    with pytest.raises(InputError, match=told):
        given(tmp_path, module, "video_features").features(clip(5), clip(5))


def test_every_clip_has_as_many_features_and_a_network_s_own_words_are_told(tmp_path):
    networks = given(tmp_path, FeaturesOfFrames(), "video_features")
    found, _ = networks.features(clip(5), clip(5))
    assert np.allclose(found, clip(5).mean(axis=(1, 2, 3)) / 127.5 - 1, atol=1e-5)
    with pytest.raises(InputError, match=r"net.pt returns 6 features for a video of 6 frames and 5 for one before"):
        networks.features(clip(6), clip(6))
    with pytest.raises(InputError, match=r"net.pt cannot work on 2 pictures of 24x16: .*three frames at least\.$"):
        networks.features(clip(2), clip(2))


def test_distances_are_one_for_each_pair(tmp_path):
    frames = clip(5)
    for shape in ([5], [5, 1, 1, 1]):
        assert given(tmp_path, Distances(shape, 0.25), "lpips").per_clip(frames, frames) == {"lpips": 0.25}
    for shape in ([1], [4], [5, 2]):
        with pytest.raises(
            InputError, match=r"net.pt returns a tensor of shape .* two batches of 5 pictures; 5 distances"
        ):
            given(tmp_path, Distances(shape), "lpips").per_clip(frames, frames)
    with pytest.raises(InputError, match=r"returns numbers that are none"):
        given(tmp_path, Distances([5], float("nan")), "lpips").per_clip(frames, frames)


def test_weights_of_pictures_too_small_for_them(tmp_path):
    torch.save({name: value.clone() for name, value in weights(ALEX).items()}, tmp_path / "alex.pth")
    with pytest.raises(InputError, match=r"alex.pth cannot work on 5 pictures of 24x16"):
        GivenNetworks.load(tmp_path / "alex.pth").per_clip(clip(5), clip(5))
