"""How a small network begins, so that it learns quickly."""

import torch
from torch import nn

from scail2.devices import without_gradients
from scail2.models.transformer import SCAIL2Transformer3DModel


@without_gradients
def initialise(transformer: SCAIL2Transformer3DModel) -> SCAIL2Transformer3DModel:
    """A start that learns quickly: alike embeddings for video and driving, open residual gates, a zero head."""
    transformer.patch_embedding_pose.load_state_dict(transformer.patch_embedding.state_dict())
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    for block in transformer.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, [2, 5]] = 0.5
    return transformer


def untrained(seed: int = 0, **config: object) -> SCAIL2Transformer3DModel:
    """A seeded transformer of the small checkpoints' sort: no text and no CLIP, x0 predicted, driving at full size."""
    torch.manual_seed(seed)
    kind = {
        "text_dim": None,
        "image_dim": None,
        "rope_theta": 100.0,
        "driving_downsample": 1,
        "prediction_type": "sample",
    }
    return initialise(SCAIL2Transformer3DModel(**(kind | config)))
