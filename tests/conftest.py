"""Shared set-up: the folder of `tiny` on the path (by this file's presence), one seed, one thread."""

import os

# Tiny tensors only lose by being split; set before torch starts its threads, and inherited by the processes tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
