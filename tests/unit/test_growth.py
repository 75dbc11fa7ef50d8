"""Growing a trained transformer: nothing is forgotten, and what is new can be learnt."""

import pytest
import torch
from tiny import bare_transformer, forward_inputs, tiny_transformer

from scail2.errors import InputError
from scail2.training.nano.growth import grow

SIZES = {"heads": 2, "layers": 2, "ffn_dim": 32}


@pytest.fixture(scope="module")
def small():
    return bare_transformer()


def grown(small, **sizes):
    return grow(small, **(SIZES | sizes), generator=torch.Generator().manual_seed(0)).eval()


def predict(transformer):
    with torch.no_grad():
        return transformer(**forward_inputs(transformer), return_dict=False)[0]


@pytest.mark.parametrize("sizes", [{}, {"layers": 5}, {"ffn_dim": 48}, {"layers": 3, "ffn_dim": 33}])
def test_depth_and_hidden_units_change_no_output(small, sizes):
    torch.testing.assert_close(predict(grown(small, **sizes)), predict(small), rtol=1e-4, atol=1e-4)


def test_a_wider_network_stays_close_and_an_untrained_one_is_not(small):
    known, wide = predict(small), grown(small, heads=3)
    assert wide.config.num_attention_heads == 3
    torch.manual_seed(1)
    untrained = type(small).from_config(wide.config)
    error, chance = ((predict(network.eval()) - known).norm() / known.norm() for network in (wide, untrained))
    assert error < 0.5 * chance


def test_old_weights_are_kept_to_the_bit(small):
    old, new = dict(small.named_parameters()), dict(grown(small, heads=4, ffn_dim=64).named_parameters())
    assert old.keys() == new.keys()
    for name, value in old.items():
        corner = new[name]
        if name.startswith("condition_embedder.time_proj"):  # six vectors, each grown
            value, corner = value.unflatten(0, (6, -1)), corner.unflatten(0, (6, -1))
        assert torch.equal(corner[tuple(slice(0, size) for size in value.shape)], value), name


def test_everything_new_learns(small):
    large = grown(small, heads=3, ffn_dim=48).train()
    optimizer = torch.optim.SGD(large.parameters(), lr=0.05)
    start = {name: value.detach().clone() for name, value in large.named_parameters()}
    for _ in range(3):
        large(**forward_inputs(large), return_dict=False)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    old = {name: value.shape for name, value in small.named_parameters()}
    for name, value in large.named_parameters():
        moved, size = (value != start[name])[None], old[name]
        if name.startswith("condition_embedder.time_proj"):
            moved, size = moved[0].unflatten(0, (6, -1)), (size[0] // 6, *size[1:])
        new = torch.ones_like(moved)
        new[(slice(None), *(slice(0, length) for length in size))] = False
        assert moved.any(), name
        assert not new.any() or moved[new].any(), f"what is new in {name} stays as it is"


def test_growth_repeats_from_its_seed(small):
    first, second = (dict(grown(small, heads=3).named_parameters()) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_shrinking_and_cross_attention_are_refused(small):
    with pytest.raises(InputError, match="layers is 1"):
        grown(small, layers=1)
    with pytest.raises(InputError, match="cross-attention"):
        grown(tiny_transformer())
