"""The preference loss and its two-pass gradient against the float64 restatement, and that against published numbers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dpo_oracle import dpo_loss, slope
from safetensors.torch import load_file
from torch import nn

from scail2.training.config import DataConfig, LoRAConfig, PreferenceConfig, TrainConfig
from scail2.training.objectives.dpo import PreferenceObjective
from scail2.training.objectives.supervised import NoiseDraw

FOLDER = Path(__file__).parents[1] / "goldens" / "training"
FACTS = json.loads((FOLDER / "training.json").read_text())["dpo"]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return {
        k.removeprefix("dpo_"): v.numpy()
        for k, v in load_file(FOLDER / "training.safetensors").items()
        if k.startswith("dpo_")
    }


def signed(golden, name: str) -> dict[str, np.ndarray]:
    return {"+": golden[f"{name}_pos"], "-": golden[f"{name}_neg"]}


@pytest.mark.parametrize(("reduction", "mean_over"), [("mean", "all"), ("sum", "sum")])
def test_the_oracle_gives_the_published_formulas_numbers(golden, reduction, mean_over):
    numbers = dpo_loss(
        signed(golden, "x"), golden["noise"], signed(golden, "v"), signed(golden, "ref"), golden["mask"],
        beta=FACTS["beta"], weight=FACTS["lam"], mean_over=mean_over,
    )  # fmt: skip
    for name, value in FACTS["reductions"][reduction].items():
        assert numbers[name] == pytest.approx(value, rel=2e-5), name


class Played(nn.Module):
    """A network whose four velocities are given: by the video it is asked about, and by whether its adapters are on."""

    def __init__(self, videos, policy, reference):
        super().__init__()
        self.policy = nn.ParameterDict({k: nn.Parameter(torch.tensor(v)) for k, v in policy.items()})
        self.reference = {k: torch.tensor(v) for k, v in reference.items()}
        self.videos = {k: torch.tensor(v) for k, v in videos.items()}
        self.adapted = True
        self.asked: list[tuple[str, bool]] = []

    def disable_adapters(self):
        self.adapted = False

    def enable_adapters(self):
        self.adapted = True


class Scripted(PreferenceObjective):
    """The objective with the draw and the network's answers given."""

    def draw(self, batch, generator):
        return batch.draw

    def velocity(self, target, draw):
        name = next(k for k, video in self.transformer.videos.items() if torch.equal(video, target))
        self.transformer.asked.append((name, self.transformer.adapted))
        return (self.transformer.policy if self.transformer.adapted else self.transformer.reference)[name]


def scripted(videos, noise, policy, reference, mask, **settings):
    """Loss terms, summed loss and gradients by the policy's velocities, as a trainer would take them."""
    network = Played(videos, policy, reference)
    config = TrainConfig(
        name="x", model="", steps=1, data=DataConfig(shards=""), lora=LoRAConfig(),
        preference=PreferenceConfig(**settings),
    )  # fmt: skip
    region = torch.tensor(mask)
    latents = SimpleNamespace(
        target=network.videos["+"],
        rejected=network.videos["-"],
        excluded=None,
        character=torch.zeros_like(region),
        region_weight=lambda _regions: region,
        only=lambda _rows: latents,
    )
    draw = NoiseDraw(torch.full((len(noise),), 0.4), torch.tensor(noise), torch.zeros_like(region), {})
    batch = SimpleNamespace(latents=latents, rows=slice(None), draw=draw)
    total, terms = 0.0, {}
    for loss, told in Scripted(network, config).losses(batch, None):
        loss.backward()
        total, terms = total + loss.item(), terms | told
    gradients = {name: parameter.grad for name, parameter in network.policy.items()}
    return {name: float(value) for name, value in terms.items()}, gradients, network.asked


def test_the_objective_gives_the_published_formulas_numbers_and_gradients(golden):
    terms, gradients, asked = scripted(
        signed(golden, "x"), golden["noise"], signed(golden, "v"), signed(golden, "ref"), golden["mask"],
        beta=FACTS["beta"], weight=FACTS["lam"], mean_over="all",
    )  # fmt: skip
    facts = FACTS["reductions"]["mean"]
    ours = {
        "delta_pos": terms["delta_preferred"], "delta_neg": terms["delta_rejected"], "logit": terms["logit"],
        "l_m": terms["preference"], "l_sft": terms["sft"], "total": terms["sft"] + FACTS["lam"] * terms["preference"],
    }  # fmt: skip
    for name, value in facts.items():
        assert ours[name] == pytest.approx(value, rel=2e-4), name
    for sign, name in (("+", "pos"), ("-", "neg")):
        expected = torch.tensor(golden[f"grad_{name}_mean"])
        assert float((gradients[sign] - expected).abs().max()) < 1e-6 * float(expected.abs().max()) + 1e-9
    # Reference first and without gradient, then the rejected video's weight, then one graph after the other.
    assert asked == [("+", False), ("-", False), ("-", True), ("+", True), ("-", True)]


def made(seed: int, samples: int = 3):
    rng = np.random.default_rng(seed)
    shape = (samples, 4, 2, 3, 5)
    draw = lambda size: rng.normal(size=size).astype(np.float32)  # noqa: E731
    videos, policy = ({"+": draw(shape), "-": draw(shape)} for _ in range(2))
    reference = {k: v + 0.05 * draw(shape) for k, v in policy.items()}
    mask = (rng.random((samples, 1, *shape[2:])) < 0.3).astype(np.float32)
    mask[0] *= 0.5  # a region that weighs half
    mask[-1] = 0  # hands out of the picture
    return videos, draw(shape), policy, reference, mask


@pytest.mark.parametrize("seed", range(4))
def test_mean_over_the_region_by_value_and_by_gradient(seed):
    videos, noise, policy, reference, mask = made(seed)
    settings = {"beta": 60.0, "weight": 0.3}
    terms, gradients, _ = scripted(videos, noise, policy, reference, mask, **settings)
    expected = dpo_loss(videos, noise, policy, reference, mask, **settings)
    seen = 2 / 3  # the log's means are over the samples that show the region, the loss's over all
    assert terms["delta_preferred"] * seen == pytest.approx(expected["delta_pos"], rel=1e-4)
    assert terms["delta_rejected"] * seen == pytest.approx(expected["delta_neg"], rel=1e-4)
    assert terms["logit"] * seen == pytest.approx(expected["logit"], rel=1e-4, abs=1e-4)
    assert terms["preference"] == pytest.approx(expected["l_m"], rel=1e-5)
    assert terms["sft"] == pytest.approx(expected["l_sft"], rel=1e-5)
    rng = np.random.default_rng(seed)
    for sign in ("+", "-"):
        for _ in range(12):
            place = tuple(int(rng.integers(side)) for side in noise.shape)

            def total(moved, sign=sign):
                return dpo_loss(videos, noise, policy | {sign: moved}, reference, mask, **settings)["total"]

            assert float(gradients[sign][place]) == pytest.approx(slope(total, policy[sign], place), rel=1e-4, abs=1e-7)
    assert not gradients["-"][-1].any()


def test_accuracy_and_saturation_are_counted_over_samples_that_show_the_region():
    videos, noise, policy, reference, mask = made(1)
    better = {k: v.copy() for k, v in policy.items()}
    better["+"][0] = (noise - videos["+"])[0]  # the first sample's preferred video is met exactly
    better["+"][1] = (noise - videos["+"])[1] + 9
    terms, _, _ = scripted(videos, noise, better, reference, mask, beta=1000.0)
    assert (terms["implicit_accuracy"], terms["saturation"]) == (0.5, 1.0)
    same, _, _ = scripted(videos, noise, reference, reference, mask)
    assert (same["logit"], same["implicit_accuracy"], same["saturation"]) == (0.0, 0.5, 0.0)
    assert same["preference"] == pytest.approx(np.log(2))
