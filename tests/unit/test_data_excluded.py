"""Pixels that nobody should learn (burned-in text) stay out of the training loss, from the pair to the gradient."""

import dataclasses

import numpy as np
import torch
from tiny import bare_transformer, patch_vae

from scail2 import conditions
from scail2.data.puppet_source import PuppetSource
from scail2.data.samples import LatentSample, collate
from scail2.data.triplet_encoding import encode_triplet
from scail2.data.triplet_settings import SampleKind, triplet_settings
from scail2.data.triplets import draw_triplet
from scail2.training.batches import cut_window
from scail2.training.config import DataConfig, LossConfig, TrainConfig
from scail2.training.objectives.supervised import FlowMatchingObjective


def test_excluded_cells_are_out_of_the_loss():
    kind, generator = SampleKind.ANIMATION_SINGLE, np.random.default_rng(0)
    triplet = draw_triplet(
        PuppetSource(frames=9, height=32, width=32).pair(kind, 0, generator), kind, triplet_settings("nano"), generator
    )
    facts = {
        "key": "k",
        "kind": kind,
        "mode": kind.mode,
        "position_mode": kind.mode,
        "slots": triplet.slots,
        "meta": {},
    }
    config = TrainConfig(
        name="x",
        model="",
        steps=1,
        data=DataConfig(shards="", history_probability=0.0, middle_history_probability=0.0),
        loss=LossConfig(space="sample"),
    )
    objective = FlowMatchingObjective(bare_transformer(), config)

    def loss(excluded: np.ndarray | None) -> float:
        sample = dataclasses.replace(triplet, excluded=excluded)
        tensors = encode_triplet(patch_vae(), conditions.ConditionGeometry(driving_downsample=1), sample)
        batch = cut_window(collate([LatentSample(**tensors, **facts)]), 1, 2)
        return float(objective.loss(batch, torch.Generator().manual_seed(1))[0].detach())

    nothing, everything = np.zeros(triplet.region.shape, bool), np.ones(triplet.region.shape, bool)
    corner = nothing.copy()
    corner[:, :3, :3] = True
    assert loss(None) == loss(nothing) > 0
    assert loss(corner) != loss(nothing)
    assert loss(everything) == 0
