"""Linear layers in one call of oneDNN: equal to the library's, and only where nothing else happens in the layer."""

import pytest
import torch
from tiny import tiny_transformer
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from scail2.models import direct_linear
from scail2.models.direct_linear import DirectLinear, take_directly


@pytest.fixture
def calls(monkeypatch):
    """The inputs that went to oneDNN directly."""
    seen = []
    product = direct_linear._PRODUCT

    def counted(x, *rest):
        seen.append(x)
        return product(x, *rest)

    monkeypatch.setattr(direct_linear, "_PRODUCT", counted)
    return seen


def _layer(bias=True):
    torch.manual_seed(0)
    return DirectLinear(24, 40, bias=bias), torch.randn(2, 7, 24)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cut", [slice(None), slice(1, 4)])
def test_equal_to_the_library(calls, bias, cut):
    layer, x = _layer(bias)
    wanted = functional.linear(x[:, cut], layer.weight, layer.bias).detach()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x[:, cut]), wanted, rtol=1e-6, atol=1e-6)
        gelu = functional.gelu(wanted, approximate="tanh")
        torch.testing.assert_close(layer(x[:, cut], gelu=True), gelu, rtol=1e-6, atol=1e-6)
    assert len(calls) == 2


def test_gradients_casts_and_counters_go_through_the_library(calls):
    layer, x = _layer()
    layer(x, gelu=True).sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layer(x, gelu=True)
    assert counter.get_total_flops() == 2 * 14 * 24 * 40
    assert not calls


def test_only_plain_layers_are_replaced_and_keep_their_parameters():
    class Own(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Sequential(Own(4, 4)))
    names, plain = list(module.state_dict()), module[0].weight
    take_directly(module)
    assert [type(each) for each in (module[0], module[1][0])] == [DirectLinear, Own]
    assert module[0].weight is plain
    assert list(module.state_dict()) == names


def test_every_layer_of_a_block_is_taken_directly():
    block = tiny_transformer().blocks[0]
    layers = [part for part in block.modules() if isinstance(part, nn.Linear)]
    assert len(layers) == 12
    assert {type(each) for each in layers} == {DirectLinear}
