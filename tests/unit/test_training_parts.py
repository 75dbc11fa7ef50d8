import pytest
import torch
from torch import nn

from scail2.training.batches import mixture_at, step_generator
from scail2.training.config import MixtureKnot, OptimizerConfig
from scail2.training.distributed.muon import orthogonal, work_parts
from scail2.training.ema import WeightAverage
from scail2.training.objectives.parts import HiddenStateTap, PartAlignment, coverage_tokens
from scail2.training.optimizers import OptimizerSet, learning_rate_factor
from scail2.training.recipes import RECIPES, recipe


def test_learning_rate_warms_up_stays_and_falls_to_its_floor():
    config = OptimizerConfig(warmup=10, decay="linear", decay_from=0.5, final_fraction=0.02)
    factors = [learning_rate_factor(step, 100, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert set(factors[10:50]) == {1.0}
    assert factors[75] == pytest.approx(0.51)
    assert factors[100] == pytest.approx(0.02)
    cosine = OptimizerConfig(decay="cosine")
    assert learning_rate_factor(49, 100, cosine) == pytest.approx(0.5)


def test_mixture_is_linear_between_knots_and_normalised():
    knots = (
        MixtureKnot(samples=0, shares=(("a", 1.0),)),
        MixtureKnot(samples=100, shares=(("a", 1.0),)),
        MixtureKnot(samples=200, shares=(("b", 2.0),)),
    )
    assert mixture_at(0, knots) == {"a": 1.0}
    assert mixture_at(150, knots) == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    assert mixture_at(10_000, knots) == {"b": 1.0}


def test_generators_depend_on_every_argument():
    draws = {
        (seed, step, purpose): torch.rand((), generator=step_generator(seed, step, purpose)).item()
        for seed in (0, 1)
        for step in (0, 1, 2)
        for purpose in (1, 2)
    }
    assert len(set(draws.values())) == len(draws)
    assert torch.rand((), generator=step_generator(1, 2, 1)).item() == draws[1, 2, 1]


def test_muon_gets_block_matrices_only():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4)]), "head": nn.Linear(4, 4)})
    muon, adamw = OptimizerSet(model.named_parameters(), OptimizerConfig(muon_learning_rate=0.02)).optimizers
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(4, 4)]
    assert sum(p.numel() for g in adamw.param_groups for p in g["params"]) == 4 + 16 + 4


def test_muon_takes_a_convolution_as_the_matrix_it_is(monkeypatch):
    monkeypatch.setattr("scail2.training.distributed.muon.has_native_bf16", lambda device: True)  # as PyTorch's own
    torch.manual_seed(0)
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Conv2d(3, 4, 3)])})
    convolution = model["blocks"][0]
    matrix = nn.Parameter(convolution.weight.detach().flatten(1).clone())
    config = OptimizerConfig(muon_learning_rate=0.02, clip_norm=0.0)
    optimizers, alone = OptimizerSet(model.named_parameters(), config), torch.optim.Muon([matrix], 0.02, 0.0)
    picture = torch.randn(1, 3, 5, 5)
    for _ in range(3):
        convolution(picture).square().sum().backward()
        matrix.grad = convolution.weight.grad.flatten(1).clone()
        optimizers.step(1.0)
        alone.step()
        torch.testing.assert_close(convolution.weight.flatten(1), matrix)
        assert convolution.weight.grad is None
    again = OptimizerSet(model.named_parameters(), config)
    again.load_state_dict(optimizers.state_dict())
    kept = again.optimizers[0].state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(kept, optimizers.optimizers[0].state_dict()["state"][0]["momentum_buffer"])
    assert kept.shape == (4, 27)


GROUP = {"ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7}


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4), (1, 5)])
def test_muon_iterates_in_the_numbers_that_the_device_multiplies(shape, monkeypatch):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    a, b, c = GROUP["ns_coefficients"]
    for _ in range(GROUP["ns_steps"]):  # the same polynomial of every singular value alone
        values = a * values + b * values**3 + c * values**5
    expected = (left * values) @ right
    for native, kind, error in ((False, torch.float32, 1e-5), (True, torch.bfloat16, 0.1)):
        monkeypatch.setattr("scail2.training.distributed.muon.has_native_bf16", lambda device, native=native: native)
        found = orthogonal(matrix, GROUP)
        assert found.dtype == kind
        torch.testing.assert_close(found.double(), expected, atol=error, rtol=0)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_matrices_are_shared_out_by_the_work_they_make(processes):
    shapes = [torch.Size(s) for s in [(8, 8)] * 8 + [(24, 8), (8, 24)] * 2 + [(1, 3)]]
    parts = work_parts(shapes, processes)
    assert sorted(number for part in parts for number in part) == list(range(len(shapes)))
    work = [min(shape) ** 2 * (2 * max(shape) + min(shape)) for shape in shapes]
    loads = [sum(work[number] for number in part) for part in parts]
    assert max(loads) - min(loads) <= max(work)


def test_weight_average_follows_and_is_written_back():
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update(model)
    expected = 1 - min(0.5, 2 / 11)
    torch.testing.assert_close(average.average["weight"], torch.full((1, 2), expected))
    average.copy_to(model)
    torch.testing.assert_close(model.weight, torch.full((1, 2), expected))


def test_coverage_tokens_have_the_order_of_the_network():
    coverage = torch.randn(2, 8, 3, 4, 6)
    tokens = coverage_tokens(coverage, (1, 2, 2))
    conv = nn.Conv3d(8, 8 * 4, (1, 2, 2), stride=(1, 2, 2), bias=False)
    conv.weight.data.copy_(torch.eye(32).view(32, 8, 1, 2, 2))
    torch.testing.assert_close(tokens, conv(coverage).flatten(2).transpose(1, 2))


def test_alignment_head_learns_what_hidden_states_say():
    torch.manual_seed(0)
    head = PartAlignment(16, 8, (1, 1, 1))
    block = nn.Identity()
    tap = HiddenStateTap(block)
    hidden = torch.randn(4, 10, 16)
    coverage = (hidden[..., :8] > 0).float()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        block(hidden)
        loss = head(tap.take(), coverage)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    with pytest.raises(RuntimeError, match="no forward pass"):
        tap.take()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole(name):
    config = recipe(name)
    assert config.name == name
    # Preference pairs count alike, one's own pairs in the shares that the cache holds; everything else names shares.
    total = 0 if config.preference or name == "nano_lora" else 1
    assert sum(mixture_at(10**9, config.data.mixture).values()) == pytest.approx(total)


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match="finetune_lora"):
        recipe("nano2")
