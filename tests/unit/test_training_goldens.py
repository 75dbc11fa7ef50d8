"""The training step against numbers of the published training formulas, computed in float64 (`tests/goldens/training`)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scail2.data.coverage import latent_coverage
from scail2.training.config import LossConfig, OptimizerConfig, TimestepConfig
from scail2.training.objectives.flow_matching import (
    add_noise,
    flow_matching_loss,
    sample_timesteps,
    shift_for_tokens,
    shift_timesteps,
)
from scail2.training.optimizers import OptimizerSet, learning_rate_factor
from scail2.training.recipes import recipe

FOLDER = Path(__file__).parents[1] / "goldens" / "training"
FACTS = json.loads((FOLDER / "training.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "training.safetensors")


def kept(golden: dict[str, torch.Tensor], case: str) -> torch.Tensor:
    out = {"none": (), "history": ("history",), "ocr": ("ocr",), "both": ("history", "ocr")}[case]
    weight = torch.ones_like(golden["history_mask"])
    for name in out:
        weight = weight * (1 - golden[f"{name}_mask"])
    return weight


@pytest.mark.parametrize("case", ["none", "history", "ocr", "both"])
def test_the_masked_loss_is_divided_as_published(golden, case):
    velocity = golden["prediction"].clone().requires_grad_()
    target = golden["noise"] - golden["x0"]
    facts = FACTS["loss"]["cases"][case]
    loss = flow_matching_loss(velocity, target, golden["t"], kept(golden, case), LossConfig())
    loss.backward()
    assert loss.item() == pytest.approx(facts["loss"], rel=1e-6)
    torch.testing.assert_close(velocity.grad, golden[f"grad_{case}"], atol=1e-8, rtol=1e-5)
    small = LossConfig(reduction="kept")
    by_kept = flow_matching_loss(velocity.detach(), target, golden["t"], kept(golden, case), small)
    assert float(by_kept) == pytest.approx(facts["loss_normalised_by_kept"], rel=1e-6)


def test_noise_is_added_and_history_stays_clean(golden):
    noisy = add_noise(golden["x0"], golden["noise"], golden["t"])
    torch.testing.assert_close(noisy, golden["noisy"], atol=2e-6, rtol=0)
    kept_clean = torch.where(golden["history_mask"] > 0, golden["x0"], noisy)
    torch.testing.assert_close(kept_clean, golden["noisy_with_history"], atol=2e-6, rtol=0)


def test_the_shift_follows_the_size_of_a_frame():
    for facts in FACTS["shift"]:
        assert shift_for_tokens(facts["tokens_per_frame"]) == pytest.approx(facts["factor"], rel=1e-12)


@pytest.mark.parametrize("tokens", [1792, 3520])
def test_noise_levels_are_the_published_ones(golden, tokens):
    shifted = shift_timesteps(torch.sigmoid(golden["t_normals"].double()), shift_for_tokens(tokens))
    torch.testing.assert_close(shifted.float(), golden[f"t_shifted_{tokens}"], atol=1e-6, rtol=0)
    drawn = sample_timesteps(200_000, TimestepConfig(), tokens, torch.Generator().manual_seed(0)).double()
    quantiles = torch.quantile(drawn, torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
    torch.testing.assert_close(quantiles.float(), golden[f"t_quantiles_{tokens}"], atol=4e-3, rtol=0)


@pytest.mark.parametrize("name", ["finetune", "finetune_512p", "stage1"])
def test_recipes_warm_up_and_anneal_as_published(name):
    config = recipe(name)
    for step, factor in FACTS["learning_rate_factor"][str(config.steps)]:
        assert learning_rate_factor(step, config.steps, config.optimizer) == pytest.approx(factor, abs=1e-12), step


def test_recipes_have_the_published_sizes():
    small, large, first = (recipe(name) for name in ("finetune_512p", "finetune", "stage1"))
    facts = FACTS["optimizer"]
    assert small.optimizer.learning_rate == facts["examples"]["fsdp_512p"]["lr"]
    assert large.optimizer.learning_rate == facts["examples"]["fsdp_704p"]["lr"]
    assert [c.data.batch_size * c.accumulation for c in (small, large, first)] == [16, 16, 128]
    assert (first.optimizer.learning_rate, first.steps) == (1e-5, 3500)
    for config in (small, large, first):
        assert list(config.optimizer.betas) == facts["adamw"]["betas"]
        assert config.optimizer.weight_decay == facts["adamw"]["weight_decay"]
        assert config.optimizer.clip_norm == facts["clip_norm"]
        assert config.optimizer.final_fraction == facts["final_fraction"]
        assert config.optimizer.warmup == math.ceil(facts["warmup_share"] * config.steps)
        data = config.data
        chances = (data.history_probability, data.middle_history_probability, data.caption_dropout)
        published = FACTS["probabilities"]
        assert chances == (
            published["history_start"],
            published["history_middle"],
            published["caption_to_empty_string"],
        )
        assert data.history_frames == published["history_latent_frames"]


def test_augmentation_has_the_published_chances():
    from scail2.data.triplet_settings import triplet_settings

    paper, published = triplet_settings("paper"), FACTS["probabilities"]
    assert (paper.augment_driving, paper.pose_scale) == (
        published["augmented_driving_e2e"],
        published["augmented_driving_pose"],
    )


def test_text_boxes_take_the_published_cells_out_of_the_loss(golden):
    """Boxes drawn into a pixel mask, packed by latent frames: a cell that a box touches in any of its frames is out."""
    frames, (_, rows, columns) = FACTS["ocr_boxes"]["frames"], FACTS["ocr_boxes"]["latent"]
    height, width = 8 * rows, 8 * columns
    excluded = np.zeros((len(frames), height, width), np.uint8)
    for number, boxes in enumerate(frames):
        for x0, y0, x1, y1 in boxes:
            area = (slice(int(y0 * height), math.ceil(y1 * height)), slice(int(x0 * width), math.ceil(x1 * width)))
            excluded[number, *area] = 1
    touched = latent_coverage(excluded, 1).max(axis=0) > 0
    np.testing.assert_array_equal(touched, golden["ocr_boxes_latent"].numpy() > 0)


def test_biases_and_norms_do_not_decay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.register_parameter("table", torch.nn.Parameter(torch.ones(1, 6, 2)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = OptimizerSet(model.named_parameters(), OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(1.0)
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in ("0.weight", "table") else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])
    assert recipe("finetune").optimizer.weight_decay == FACTS["optimizer"]["adamw"]["weight_decay"]
    groups = [group["weight_decay"] for group in optimizers.optimizers[0].param_groups]
    assert groups == [0.5, FACTS["optimizer"]["adamw"]["weight_decay_on_biases_and_norms"]]
