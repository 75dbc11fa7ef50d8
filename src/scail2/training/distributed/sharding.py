"""Weights, gradients and moments in equal parts over all processes (FSDP2), a block at a time whole where it computes."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from scail2.devices import Precision


def shard_model(transformer: nn.Module, auxiliary: nn.Module, mesh: DeviceMesh, precision: Precision) -> None:
    """Shards a transformer and what is trained beside it over a mesh of one dimension, in place.

    Weights stay as they are stored. In half precision the blocks' linear layers, which autocast would cast one by one as they are
    used, are gathered in that type, so that half as much is sent; norms and modulation stay whole, as in one process. Gradients
    are averaged over the mesh, in float32.
    """
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    low = MixedPrecisionPolicy(param_dtype=precision.torch_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in transformer.blocks:
        if precision != Precision.FLOAT32:
            fully_shard(_linear_layers(block), mesh=mesh, mp_policy=low)
        fully_shard(block, mesh=mesh, mp_policy=exact)
    # Between two passes nothing is left whole: what asks for parameters then always finds parts.
    fully_shard(transformer, mesh=mesh, mp_policy=exact, reshard_after_forward=True)
    # Otherwise the first pass decides in which type gradients are added up, and a preference objective's has its adapters off.
    transformer._get_fsdp_state()._lazy_init()
    for part in auxiliary.children():
        fully_shard(part, mesh=mesh, mp_policy=exact, reshard_after_forward=True)


def _linear_layers(block: nn.Module) -> list[nn.Module]:
    """Linear layers, with their adapters where they have some: each is called once in every pass."""
    tuned = [module for module in block.modules() if isinstance(module, BaseTunerLayer)]
    inner = {id(part) for module in tuned for part in module.modules() if part is not module}
    return [m for m in block.modules() if isinstance(m, nn.Linear | BaseTunerLayer) and id(m) not in inner]
